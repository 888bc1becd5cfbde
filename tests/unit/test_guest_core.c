// SPDX-License-Identifier: Apache-2.0
/* The agent's small parts: users and groups from files, base64, environments, the loop. */
#include "tests/unit/unit.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "common/base64.h"
#include "common/clock.h"
#include "guest/env.h"
#include "guest/loop.h"
#include "guest/users.h"

/* ---- users ---- */

static char dir[] = "/tmp/forkd-agent-XXXXXX";

static const char *file(const char *name, const char *text)
{
	static char path[2][128];
	char *p = path[strcmp(name, "group") == 0];

	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	FILE *f = fopen(p, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	return p;
}

static void users(void **state)
{
	(void)state;
	const char *passwd = file("passwd",
				  "root:x:0:0:root:/root:/bin/bash\n"
				  "# comment\nbroken:x:1\nbad:x:-1:0::/:\n:x:3:3::/:\nbig:x:4294967295:0::/:/bin/sh\n"
				  "user:x:1000:1001:A, B:/home/user:/bin/dash\n"
				  "nohome:x:7:7::relative:\nlast:x:8:9::/l:/bin/sh");
	const char *group = file("group", "root:x:0:\nwheel:x:10:root,user\nsub:x:11:usher,user2\nown:x:1001:user\n"
					  "x:x:oops:user\ndup:x:12:user,user");
	struct err err = {};
	autouser struct user u = {};

	assert_int_equal(user_find_in(passwd, group, "user", &u, &err), 0);
	assert_string_equal(u.name, "user");
	assert_string_equal(u.home, "/home/user");
	assert_string_equal(u.shell, "/bin/dash");
	assert_int_equal(u.uid, 1000);
	assert_int_equal(u.gid, 1001);
	assert_int_equal(u.n_groups, 3);
	assert_int_equal(u.groups[0], 1001);
	assert_int_equal(u.groups[1], 10);
	assert_int_equal(u.groups[2], 12);
	user_done(&u);
	assert_int_equal(user_find_in(passwd, "/none", "nohome", &u, &err), 0);
	assert_string_equal(u.home, "/");
	assert_string_equal(u.shell, "/bin/sh");
	assert_int_equal(u.n_groups, 1);
	user_done(&u);
	assert_int_equal(user_find_in(passwd, group, "last", &u, &err), 0);
	user_done(&u);
	for (const char *const *name = (const char *const[]){ "", "use", "broken", "bad", "big", "# comment", NULL };
	     *name; name++) {
		assert_int_equal(user_find_in(passwd, group, *name, &u, &err), -ENOENT);
		assert_int_equal(err.code, ERR_NOT_FOUND);
	}
	assert_int_equal(user_find_in("/none", group, "user", &u, &err), -ENOENT);
	assert_string_equal(u.name ? u.name : "untouched", "untouched");
}

/* Users as images name them. */
static void user_specs(void **state)
{
	static const struct {
		const char *spec, *name, *home;
		uid_t uid;
		gid_t gid;
		size_t n_groups;
	} cases[] = {
		{ "user", "user", "/home/user", 1000, 1001, 2 },
		{ "1000", "user", "/home/user", 1000, 1001, 2 },
		{ "user:wheel", "user", "/home/user", 1000, 10, 1 },
		{ "1000:4294967294", "user", "/home/user", 1000, 4294967294U, 1 },
		{ "77", "77", "/", 77, 0, 1 },
		{ "77:wheel", "77", "/", 77, 10, 1 },
	};
	const char *passwd =
		file("passwd", "root:x:0:0:root:/root:/bin/bash\nuser:x:1000:1001::/home/user:/bin/dash\n");
	const char *group = file("group", "wheel:x:10:root,user\n");
	struct err err = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		autouser struct user u = {};
		assert_int_equal(user_find_spec_in(passwd, group, cases[i].spec, &u, &err), 0);
		assert_string_equal(u.name, cases[i].name);
		assert_string_equal(u.home, cases[i].home);
		assert_int_equal(u.uid, cases[i].uid);
		assert_int_equal(u.gid, cases[i].gid);
		assert_int_equal(u.n_groups, cases[i].n_groups);
		assert_int_equal(u.groups[0], cases[i].gid);
	}
	for (const char *const *spec =
		     (const char *const[]){ "", ":", "none", "user:none", "user:", "4294967295", "-1", "77:-1", NULL };
	     *spec; spec++) {
		struct user u = {};
		assert_int_equal(user_find_spec_in(passwd, group, *spec, &u, &err), -ENOENT);
		assert_null(u.text);
	}
	struct user u = {};
	assert_int_equal(user_find_spec_in("/none", "/none", "5:6", &u, &err), 0); /* an image may have neither file */
	assert_int_equal(u.gid, 6);
	user_done(&u);
}

static void owners(void **state)
{
	(void)state;
	autofree char *root = user_name_of(0), *wheel = group_name_of(0), *nobody = user_name_of(4000000000U);

	assert_string_equal(root, "root");
	assert_string_equal(wheel, "root");
	assert_string_equal(nobody, "4000000000");
}

/* ---- base64 ---- */

static void base64(void **state)
{
	/* RFC 4648, section 10 */
	static const char *const cases[][2] = { { "", "" },
						{ "f", "Zg==" },
						{ "fo", "Zm8=" },
						{ "foo", "Zm9v" },
						{ "foob", "Zm9vYg==" },
						{ "fooba", "Zm9vYmE=" },
						{ "foobar", "Zm9vYmFy" } };
	static const char *const bad[] = { "A", "=", "A===", "Zg=x", "Z g=", "Zm9v=", "Zg==Zg==", "Zm9v\n", "-_-_" };
	char text[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const size_t len = strlen(cases[i][0]);
		autofree char *in = exact_copy(cases[i][0], len), *out = malloc(base64_size(len) + 1);
		base64_encode(out, in, len);
		assert_memory_equal(out, cases[i][1], base64_size(len));
		assert_int_equal(base64_decode(text, cases[i][1], strlen(cases[i][1])), len);
		assert_memory_equal(text, cases[i][0], len);
		assert_int_equal(base64_decode(text, cases[i][1], strcspn(cases[i][1], "=")),
				 len); /* without padding */
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(base64_decode(text, bad[i], strlen(bad[i])), -EINVAL);
}

static void base64_of_all_bytes(void **state)
{
	unsigned char bytes[10000], back[10000 + 2];
	autostrbuf struct strbuf b = {};

	(void)state;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (unsigned char)(i * 7 + i / 256);
	for (size_t len = sizeof(bytes) - 4; len <= sizeof(bytes); len++) {
		b.len = 0;
		base64_add(&b, bytes, len);
		assert_int_equal(b.len, base64_size(len));
		assert_int_equal(base64_decode(back, b.text, b.len), len);
		assert_memory_equal(back, bytes, len);
		assert_int_equal(base64_decode(b.text, b.text, b.len), len); /* in place */
		assert_memory_equal(b.text, bytes, len);
	}
}

/* ---- environments ---- */

static void environments(void **state)
{
	autoenv struct env env = {}, other = {};

	(void)state;
	assert_int_equal(env_set(&env, "A", "1"), 0);
	assert_int_equal(env_set(&env, "AB", "2"), 0);
	assert_int_equal(env_set(&env, "A", "x=y"), 0);
	assert_string_equal(env_get(&env, "A"), "x=y");
	assert_string_equal(env_get(&env, "AB"), "2");
	assert_null(env_get(&env, "B"));
	assert_int_equal(env.n, 2);
	for (int i = 0; i < 100; i++) {
		char name[16];
		snprintf(name, sizeof(name), "N%d", i);
		assert_int_equal(env_set(&other, name, name), 0);
	}
	assert_int_equal(env_set(&other, "A", "new"), 0);
	assert_int_equal(env_set_all(&env, &other), 0);
	assert_int_equal(env.n, 102);
	assert_null(env.vars[102]);
	assert_string_equal(env_get(&env, "A"), "new");
	assert_string_equal(env_get(&env, "N99"), "N99");
	assert_true(env_name_valid("A") && !env_name_valid("") && !env_name_valid("A=B"));
}

/* ---- the loop ---- */

static struct loop loop;
static char seen[64];

static void note(const char *what)
{
	strcat(seen, what);
}

static struct timer a, b, c;

static void fire_a(struct timer *t)
{
	note("a");
	loop_timer_cancel(&c);
	if (strlen(seen) < 4)
		loop_timer_set(&loop, t, 0);
	else
		loop_stop(&loop, 7);
}

static void fire_b(struct timer *t)
{
	(void)t;
	note("b");
}

static void timers(void **state)
{
	struct err err = {};
	const uint64_t now = monotonic_ns();

	(void)state;
	seen[0] = '\0';
	assert_int_equal(loop_init(&loop, &err), 0);
	a.fire = fire_a;
	b.fire = c.fire = fire_b;
	loop_timer_set(&loop, &c, now + 3);
	loop_timer_set(&loop, &b, now + 2);
	loop_timer_set(&loop, &a, now + 5);
	loop_timer_set(&loop, &a, now + 1); /* moved to the front; it takes c out */
	assert_int_equal(loop_run(&loop), 7);
	assert_string_equal(seen, "abaa");
	assert_null(loop.timers);
	loop_done(&loop);
}

static int status_of;

static void ended(struct child *child, int status)
{
	(void)child;
	status_of = status;
	loop_stop(&loop, 0);
}

static void children(void **state)
{
	struct err err = {};
	struct child one = { .ended = ended };

	(void)state;
	assert_int_equal(loop_init(&loop, &err), 0);
	if (fork() == 0)
		_exit(0); /* nobody asks for this one */
	one.pid = fork();
	if (one.pid == 0) {
		usleep(1000);
		_exit(3);
	}
	loop_child_add(&loop, &one);
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(WEXITSTATUS(status_of), 3);
	while (waitpid(-1, NULL, 0) > 0)
		;
	assert_int_equal(errno, ECHILD);
	loop_done(&loop);
}

static struct watch one, other;

static void take_out(struct watch *w, uint32_t events)
{
	(void)events;
	strcat(seen, w == &one ? "1" : "2");
	loop_del(&loop, &one); /* also the one that is still to come in this round */
	loop_del(&loop, &other);
	loop_stop(&loop, 0);
}

static void watches(void **state)
{
	int p[2];
	struct err err = {};

	(void)state;
	seen[0] = '\0';
	assert_int_equal(loop_init(&loop, &err), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	one = (struct watch){ .fd = p[0], .ready = take_out };
	other = (struct watch){ .fd = p[1], .ready = take_out };
	assert_int_equal(loop_add(&loop, &one, EPOLLOUT, &err), 0);
	assert_int_equal(loop_add(&loop, &other, EPOLLOUT, &err), 0);
	assert_int_equal(loop_run(&loop), 0);
	assert_int_equal(strlen(seen), 1);
	loop_done(&loop);
	close(p[0]);
	close(p[1]);
}

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	unlink(file("passwd", ""));
	unlink(file("group", ""));
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(users),
		cmocka_unit_test(user_specs),
		cmocka_unit_test(owners),
		cmocka_unit_test(base64),
		cmocka_unit_test(base64_of_all_bytes),
		cmocka_unit_test(environments),
		cmocka_unit_test(timers),
		cmocka_unit_test(children),
		cmocka_unit_test(watches),
	};

	return cmocka_run_group_tests_name("guest_core", tests, set_up, tear_down);
}
