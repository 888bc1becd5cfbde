// SPDX-License-Identifier: Apache-2.0
/* The tree of an image: paths, layers over each other, and what it holds in memory. */
#include "forkd/build/tree.h"

#include <errno.h>
#include <string.h>

#include "forkd/build/limits.h"
#include "tests/unit/unit.h"

static struct image_entry entry(const char *path, uint32_t mode)
{
	return (struct image_entry){ .path = path, .mode = mode, .mtime = 7 };
}

static int put(struct tree *t, const char *path, uint32_t mode)
{
	struct image_entry e = entry(path, mode);
	struct err err = {};

	e.target = "target";
	e.size = e.data_bytes = S_ISREG(mode) ? 10 : 0;
	return tree_apply(t, &e, &err);
}

static int put_link(struct tree *t, const char *path, const char *target, bool hard)
{
	struct image_entry e = entry(path, hard ? S_IFREG : S_IFLNK | 0777);
	struct err err = {};

	e.target = target;
	e.is_hard_link = hard;
	return tree_apply(t, &e, &err);
}

static void start(struct tree *t)
{
	struct err err = {};

	*t = (struct tree){};
	assert_int_equal(tree_init(t, 1000, &err), 0);
	tree_next_layer(t, true);
}

static int add_text(void *arg, struct name *name)
{
	char *text = arg;

	strcat(text, name->text);
	strcat(text, S_ISDIR(name->node->mode) ? "(" : " ");
	if (S_ISDIR(name->node->mode)) {
		assert_int_equal(tree_each(name->node, add_text, arg), 0);
		strcat(text, ") ");
	}
	return 0;
}

static void looks(const struct tree *t, const char *expected)
{
	char text[500] = "";

	assert_int_equal(tree_each(t->root, add_text, text), 0);
	assert_string_equal(text, expected);
}

/* Names come in the order of their bytes; directories that nobody described are made. */
static void order(void **state)
{
	autotree struct tree t;

	(void)state;
	start(&t);
	assert_int_equal(put(&t, "b", S_IFREG), 0);
	assert_int_equal(put(&t, "./a//x/", S_IFREG), 0);
	assert_int_equal(put(&t, "/B", S_IFIFO), 0);
	assert_int_equal(put(&t, "\xff", S_IFREG), 0);
	looks(&t, "B a(x ) b \xff ");
	assert_int_equal(tree_find(t.root, "a")->node->mode, S_IFDIR | 0755);
	assert_int_equal(t.n_entries, 4);
	assert_int_equal(t.data_bytes, 30);
}

/* What goes away gives its memory back, its bytes, and its place in the list of contents. */
static void counts(void **state)
{
	autotree struct tree t;

	(void)state;
	start(&t);
	const uint64_t before = t.held;
	assert_int_equal(put(&t, "d/a", S_IFREG), 0);
	assert_int_equal(put_link(&t, "d/s", "a long target", false), 0);
	assert_int_equal(put_link(&t, "d/b", "d/a", true), 0);
	assert_int_equal(put(&t, "c", S_IFREG), 0);
	assert_int_equal(t.n_contents, 2);
	assert_non_null(t.contents[0]);
	tree_next_layer(&t, true);
	assert_int_equal(put(&t, ".wh.d", S_IFREG), 0);
	looks(&t, "c ");
	assert_null(t.contents[0]);
	assert_int_equal(t.data_bytes, 10);
	assert_int_equal(put(&t, ".wh..wh..opq", S_IFREG), 0);
	assert_int_equal(t.held, before);
	assert_int_equal(t.data_bytes, 0);
}

/* Files of the image's bound fit; one byte more does not. */
static void bytes(void **state)
{
	autotree struct tree t;
	struct image_entry e = entry("a", S_IFREG);
	struct err err = {};

	(void)state;
	start(&t);
	e.size = e.data_bytes = 1000;
	assert_int_equal(tree_apply(&t, &e, &err), 0);
	assert_int_equal(tree_apply(&t, &e, &err), 0); /* it replaces itself */
	e.path = "b";
	e.size = e.data_bytes = 1;
	assert_int_equal(tree_apply(&t, &e, &err), -EINVAL);
	assert_string_equal(err.msg, "'b' of 1 bytes: with it the files have more than the 1000 bytes of the image");
}

/* Nothing leads out of the root, and links in a circle have an end. */
static void resolution(void **state)
{
	autotree struct tree t;
	char last[IMAGE_NAME_MAX + 1];
	struct node *dir = NULL;
	struct err err = {};

	(void)state;
	start(&t);
	assert_int_equal(put(&t, "usr/lib/", S_IFDIR), 0);
	assert_int_equal(put_link(&t, "lib", "/usr/lib", false), 0);
	assert_int_equal(put_link(&t, "up", "../../../..", false), 0);
	assert_int_equal(put_link(&t, "loop", "loop", false), 0);
	assert_int_equal(tree_walk(&t, "up/up/lib/x/.", false, &dir, last, &err), 0);
	assert_ptr_equal(dir, tree_find(tree_find(t.root, "usr")->node, "lib")->node);
	assert_string_equal(last, "x");
	assert_int_equal(tree_walk(&t, "/./", false, &dir, last, &err), 0);
	assert_ptr_equal(dir, t.root);
	assert_string_equal(last, "");
	assert_true(tree_walk(&t, "loop/x", true, &dir, last, &err) < 0);
	err = (struct err){};
	assert_int_equal(tree_walk(&t, "none/x", false, &dir, last, &err), -ENOENT);
	assert_int_equal(err.code, ERR_NOT_FOUND);
	err = (struct err){};
	assert_int_equal(tree_walk(&t, "usr/../x", false, &dir, last, &err), -EINVAL);
	assert_string_equal(err.msg, "'usr/../x': a path with '..'");
}

/* Each layer hides what is below it, and nothing of its own, in whatever order its entries come. */
static void whiteouts(void **state)
{
	static const char *const orders[][4] = {
		{ "d/", "d/new", "d/.wh..wh..opq", NULL },
		{ "d/.wh..wh..opq", "d/", "d/new", NULL },
		{ ".wh.d", "d/", "d/new", NULL },
		{ "d/", "d/new", ".wh.d", NULL },
		{ "d/new", ".wh.d", NULL },
		{ "d/new", "d/.wh.old", "d/.wh.sub", NULL },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(orders); i++) {
		autotree struct tree t;
		start(&t);
		assert_int_equal(put(&t, "d/old", S_IFREG), 0);
		assert_int_equal(put(&t, "d/sub/old", S_IFREG), 0);
		tree_next_layer(&t, true);
		for (size_t k = 0; orders[i][k]; k++)
			assert_int_equal(
				put(&t, orders[i][k], strcmp(orders[i][k], "d/") == 0 ? S_IFDIR | 0700 : S_IFREG), 0);
		looks(&t, "d(new ) ");
	}
}

/* Whiteouts of nothing are counted; where they mean nothing they are files. */
static void void_whiteouts(void **state)
{
	autotree struct tree t;

	(void)state;
	start(&t);
	assert_int_equal(put(&t, "f", S_IFREG), 0);
	assert_int_equal(put(&t, ".wh.none", S_IFREG), 0);
	assert_int_equal(put(&t, "none/.wh.x", S_IFREG), 0);
	assert_int_equal(put(&t, "f/.wh.x", S_IFREG), 0);
	assert_int_equal(put(&t, ".wh..wh.plnk", S_IFDIR), 0);
	assert_int_equal(t.void_whiteouts, 3);
	looks(&t, "f ");
	tree_next_layer(&t, false);
	assert_int_equal(put(&t, ".wh.f", S_IFREG), 0);
	looks(&t, ".wh.f f ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),      cmocka_unit_test(counts),    cmocka_unit_test(bytes),
		cmocka_unit_test(resolution), cmocka_unit_test(whiteouts), cmocka_unit_test(void_whiteouts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
