// SPDX-License-Identifier: Apache-2.0
/* Clones by id, by filter and by state; names of templates; records on disk. */
#include "forkd/registry/registry.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/clock.h"
#include "common/ctl.h"
#include "forkd/errors.h"
#include "forkd/template/templates.h"
#include "tests/unit/unit.h"

static struct clone *add(struct registry *r, const char *id, const char *template, const char *label,
			 enum clone_state state)
{
	struct clone *c = clone_new(id);

	assert_non_null(c);
	c->record.template = strdup(template);
	c->record.created_at = time_text(true);
	c->record.labels = calloc(1, sizeof(*c->record.labels));
	c->record.labels[0] = (struct label){ strdup("k"), strdup(label) };
	c->record.n_labels = 1;
	registry_add(r, c);
	registry_swap_state(r, c, 1u << CLONE_CREATING, state);
	return c;
}

static struct registry *three(struct clone *ret[3])
{
	struct registry *r;
	struct err err = {};

	assert_int_equal(registry_new(&r, &err), 0);
	ret[0] = add(r, "c-bbb", "t1", "x", CLONE_RUNNING);
	ret[1] = add(r, "c-aaa", "t1", "y", CLONE_PAUSED);
	ret[2] = add(r, "c-ccc", "t2", "x", CLONE_RUNNING);
	return r;
}

static void done(struct registry *r, struct clone *c[3])
{
	for (unsigned i = 0; i < 3; i++)
		clone_unref(r, c[i]);
	registry_free(r);
}

/* The ids that a filter finds, in one text. */
static void expect(struct registry *r, const struct clone_filter *f, const char *ids, bool more)
{
	autostrbuf struct strbuf found = {};
	struct clone **list;
	struct err err = {};
	bool has_more;
	unsigned n;

	assert_int_equal(registry_list(r, f, &list, &n, &has_more, &err), 0);
	strbuf_puts(&found, "");
	for (unsigned i = 0; i < n; i++)
		strbuf_puts(&found, list[i]->record.id + 2);
	assert_string_equal(found.text, ids);
	assert_int_equal(has_more, more);
	clones_unref(r, list, n);
}

static void lists(void **state)
{
	struct clone *c[3];
	struct registry *r = three(c);

	(void)state;
	expect(r, &(struct clone_filter){ .state = -1 }, "aaabbbccc", false);
	expect(r, &(struct clone_filter){ .state = -1, .limit = 2 }, "aaabbb", true);
	expect(r, &(struct clone_filter){ .state = -1, .limit = 2, .after = "c-bbb" }, "ccc", false);
	expect(r, &(struct clone_filter){ .state = -1, .after = "c-bb" }, "bbbccc", false); /* one that is gone */
	expect(r, &(struct clone_filter){ .state = CLONE_RUNNING }, "bbbccc", false);
	expect(r, &(struct clone_filter){ .state = -1, .template = "t1" }, "aaabbb", false);
	char key[] = "k", value[] = "x";
	struct clone_filter f = { .state = -1, .n_labels = 1, .labels = { { key, value } } };
	expect(r, &f, "bbbccc", false);
	f.template = "t2";
	expect(r, &f, "ccc", false);
	done(r, c);
}

static void finds_and_removes(void **state)
{
	struct clone *c[3];
	struct registry *r = three(c);

	(void)state;
	struct clone *found = registry_find(r, "c-aaa");
	assert_ptr_equal(found, c[1]);
	registry_remove(r, found);
	registry_remove(r, found); /* twice is fine */
	assert_null(registry_find(r, "c-aaa"));
	assert_int_equal(registry_swap_state(r, found, ~0u, CLONE_RUNNING), -1);
	clone_unref(r, found);
	assert_int_equal(r->n, 2);
	done(r, c);
}

static void changes_state(void **state)
{
	struct clone *c[3];
	struct registry *r = three(c);
	struct err err = {};
	atomic_bool stopping = false;

	(void)state;
	assert_int_equal(registry_swap_state(r, c[0], 1u << CLONE_PAUSED, CLONE_EXITED), CLONE_RUNNING);
	assert_int_equal(clone_state(r, c[0]), CLONE_RUNNING);
	assert_int_equal(registry_wait(r, c[0], CLONE_RUNNING, 0, &stopping, &err), 0);
	assert_true(registry_wait(r, c[0], CLONE_PAUSED, monotonic_ns() + 1000000, &stopping, &err) < 0);
	assert_int_equal(err.detail, E_TIMEOUT);
	assert_int_equal(registry_swap_state(r, c[0], 1u << CLONE_RUNNING, CLONE_EXITED), CLONE_RUNNING);
	assert_int_equal(r->n_exited, 1);
	assert_true(registry_wait(r, c[0], CLONE_PAUSED, UINT64_MAX / 2, &stopping, &err) < 0);
	assert_int_equal(err.detail, E_BAD_STATE);
	assert_int_equal(registry_wait(r, c[0], CLONE_EXITED, 0, &stopping, &err), 0);
	registry_remove(r, c[0]);
	assert_int_equal(r->n_exited, 0);
	assert_true(registry_wait(r, c[0], CLONE_PAUSED, UINT64_MAX / 2, &stopping, &err) < 0);
	assert_int_equal(err.detail, E_NO_CLONE);
	done(r, c);
}

static void templates(void **state)
{
	struct clone *c[3];
	struct registry *r = three(c);
	struct tmpl *t, *other;
	struct err err = {};

	(void)state;
	assert_true(tmpl_reserve(r, "../x", &t, &err) < 0);
	assert_int_equal(err.detail, E_BAD_NAME);
	assert_int_equal(tmpl_reserve(r, "t1", &t, &err), 0);
	assert_true(tmpl_reserve(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_TEMPLATE_BUILDING);
	assert_true(tmpl_use(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_TEMPLATE_BUILDING);
	tmpl_ready(r, t);
	assert_true(tmpl_reserve(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_TEMPLATE_EXISTS);
	assert_true(tmpl_begin_delete(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_TEMPLATE_IN_USE);
	assert_non_null(strstr(err.msg, "has 2 clones: "));
	assert_non_null(strstr(err.msg, "c-aaa"));
	registry_swap_state(r, c[0], ~0u, CLONE_EXITED);
	registry_remove(r, c[1]);
	assert_int_equal(tmpl_use(r, "t1", &other, &err), 0);
	assert_true(tmpl_begin_delete(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_TEMPLATE_IN_USE);
	tmpl_unuse(r, t);
	assert_int_equal(tmpl_begin_delete(r, "t1", &other, &err), 0);
	assert_true(tmpl_use(r, "t1", &other, &err) < 0);
	assert_int_equal(err.detail, E_NO_TEMPLATE);
	tmpl_forget(r, t);
	assert_int_equal(tmpl_reserve(r, "t1", &t, &err), 0);
	done(r, c);
}

static void records(void **state)
{
	char dir[] = "/tmp/forkd-test-record-XXXXXX", path[64];
	struct clone *c[3];
	struct registry *r = three(c);
	struct record back = {};
	struct err err = {};
	bool committed;

	(void)state;
	assert_non_null(mkdtemp(dir));
	autoclose int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(record_load(&back, fd, &committed, &err) < 0);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	c[0]->record.pid = 42;
	c[0]->record.ttl_s = UINT32_MAX;
	c[0]->record.clock = CTL_CLOCK_CONTINUE;
	c[0]->record.vsock_file = (struct sock_file){ 1, UINT64_MAX, 3 };
	assert_int_equal(record_save(&c[0]->record, fd, &err), 0);
	assert_int_equal(record_load(&back, fd, &committed, &err), 0);
	assert_false(committed);
	record_free(&back);
	assert_int_equal(record_commit(fd, &err), 0);
	assert_int_equal(record_load(&back, fd, &committed, &err), 0);
	assert_true(committed);
	assert_string_equal(back.id, "c-bbb");
	assert_string_equal(back.labels[0].value, "x");
	assert_int_equal(back.pid, 42);
	assert_int_equal(back.clock, CTL_CLOCK_CONTINUE);
	assert_memory_equal(&back.vsock_file, &c[0]->record.vsock_file, sizeof(back.vsock_file));
	record_free(&back);
	snprintf(path, sizeof(path), "%s/clone.json", dir);
	unlink(path);
	rmdir(dir);
	done(r, c);
}

static void taps_have_one_owner(void **state)
{
	struct clone *c[3];
	struct registry *r = three(c);
	char other[CLONE_ID_CHARS + 1];

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		c[i]->record.net = calloc(1, sizeof(*c[i]->record.net));
		c[i]->record.n_net = 1;
		c[i]->record.net[0].id = strdup("net");
	}
	assert_true(registry_claim_tap(r, c[0], 0, "tap0", other));
	assert_false(registry_claim_tap(r, c[1], 0, "tap0", other));
	assert_string_equal(other, c[0]->record.id);
	assert_null(c[1]->record.net[0].tap);
	assert_true(registry_claim_tap(r, c[1], 0, "tap0", NULL)); /* in another namespace */
	registry_swap_state(r, c[0], ~0u, CLONE_EXITED);
	registry_swap_state(r, c[1], ~0u, CLONE_EXITED);
	assert_true(registry_claim_tap(r, c[2], 0, "tap0", other));
	done(r, c);
}

static void ids_differ(void **state)
{
	char a[CLONE_ID_CHARS + 1], b[CLONE_ID_CHARS + 1];

	(void)state;
	record_new_id(a);
	record_new_id(b);
	assert_int_equal(strlen(a), CLONE_ID_CHARS);
	assert_memory_equal(a, "c-", 2);
	assert_string_not_equal(a, b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists),
		cmocka_unit_test(finds_and_removes),
		cmocka_unit_test(changes_state),
		cmocka_unit_test(templates),
		cmocka_unit_test(records),
		cmocka_unit_test(ids_differ),
		cmocka_unit_test(taps_have_one_owner),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
