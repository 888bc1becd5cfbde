// SPDX-License-Identifier: Apache-2.0
/* Images of the store: what they are called, who refers to them, and what is left when nobody does. */
#include "store/images.h"

#include <fcntl.h>

#include "common/io.h"
#include "common/qcow2.h"
#include "tests/unit/test_store_util.h"

enum { IMAGE_BYTES = 3 << 20 };

static int drop_root(void **state)
{
	(void)state;
	remove_path(root);
	return 0;
}

/* An image whose first bytes are the text; the caller has a reference. */
static int make_image(struct store *s, const char *text, enum store_image_type type, const char *backing,
		      char id[STORE_ID_CHARS + 1], struct err *err)
{
	struct staged_image *image = NULL;

	if (store_image_stage(s, &image, err) < 0)
		return err->num;
	assert_int_equal(ftruncate(staged_image_fd(image), IMAGE_BYTES), 0);
	assert_int_equal(io_write(staged_image_fd(image), text, strlen(text), 0), strlen(text));
	int r = staged_image_seal(&image, type, IMAGE_BYTES, backing, id, err);
	staged_image_discard(image);
	return r;
}

static unsigned n_images(void)
{
	return count_entries(path_of(root, "images"));
}

static const char *data_of(const char *id)
{
	static char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%s/images/%s/data", root, id);
	return path;
}

static bool nothing_used(void *arg, const char *name)
{
	(void)arg;
	(void)name;
	return false;
}

/* What a VM writes into a copy before the seal counts, not what was copied. */
static void is_written_after_the_copy(void **state)
{
	char a[STORE_ID_CHARS + 1], b[STORE_ID_CHARS + 1];
	struct staged_image *image = NULL;
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	assert_ok(make_image(s, "one", STORE_IMAGE_RAW, NULL, a, &err), err);
	autoclose int fd = open(data_of(a), O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_ok(store_image_stage(s, &image, &err), err);
	assert_ok(staged_image_import(image, fd, IMAGE_BYTES, "one", &err), err);
	assert_int_equal(io_write(staged_image_fd(image), "two", 3, 0), 3);
	assert_ok(staged_image_seal(&image, STORE_IMAGE_RAW, IMAGE_BYTES, NULL, b, &err), err);
	assert_string_not_equal(a, b);
	assert_ok(make_image(s, "two", STORE_IMAGE_RAW, NULL, a, &err), err);
	assert_string_equal(a, b);
	store_close(s);
}

static void is_called_by_what_it_is(void **state)
{
	char a[STORE_ID_CHARS + 1], b[STORE_ID_CHARS + 1], c[STORE_ID_CHARS + 1], d[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct store_image image;
	struct err err = {};
	struct stat st;

	(void)state;
	assert_ok(make_image(s, "one", STORE_IMAGE_RAW, NULL, a, &err), err);
	assert_ok(make_image(s, "one", STORE_IMAGE_RAW, NULL, b, &err), err);
	assert_string_equal(a, b);
	assert_int_equal(n_images(), 1);
	assert_ok(make_image(s, "two", STORE_IMAGE_RAW, NULL, b, &err), err);
	assert_ok(make_image(s, "one", STORE_IMAGE_QCOW2, NULL, c, &err), err);
	assert_ok(make_image(s, "one", STORE_IMAGE_QCOW2, a, d, &err), err);
	assert_int_equal(n_images(), 4); /* each of them another one */
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	assert_int_equal(stat(data_of(d), &st), 0);
	assert_int_equal(st.st_mode & 07777, 0400);
	assert_ok(store_image_read(s, d, &image, &err), err);
	assert_int_equal(image.type, STORE_IMAGE_QCOW2);
	assert_int_equal(image.bytes, IMAGE_BYTES);
	assert_string_equal(image.backing, a);
	assert_int_equal(image.data.n_sha256, 2);
	fields_free(store_image_fields, &image);
	store_close(s);
}

/* Of files that nobody has written: their length is all that a hostile VM, or a caller, needs to make long. */
static void has_a_length(void **state)
{
	static const uint64_t too_long[] = { STORE_FILE_MAX_BYTES + 1, 2 * STORE_FILE_MAX_BYTES };
	char id[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(too_long); i++) {
		struct staged_image *image = NULL;
		assert_ok(store_image_stage(s, &image, &err), err);
		assert_int_equal(ftruncate(staged_image_fd(image), (off_t)too_long[i]), 0);
		assert_err(staged_image_import(image, staged_image_fd(image), too_long[i], "long", &err), err,
			   ERR_INVALID, "'long' has");
		assert_err(staged_image_seal(&image, STORE_IMAGE_RAW, too_long[i], NULL, id, &err), err, ERR_INVALID,
			   "an image of a disk has 1099511627776 at most");
		staged_image_discard(image);
	}
	assert_int_equal(n_images(), 0);
	store_close(s);
}

static void goes_with_its_last_reference(void **state)
{
	char base[STORE_ID_CHARS + 1], over[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	assert_ok(make_image(s, "base", STORE_IMAGE_RAW, NULL, base, &err), err);
	assert_ok(make_image(s, "over", STORE_IMAGE_QCOW2, base, over, &err), err);
	store_image_unref(s, base); /* the other image has one */
	assert_int_equal(n_images(), 2);
	assert_ok(store_image_ref(s, over, &err), err);
	store_image_unref(s, over);
	assert_int_equal(n_images(), 2);
	store_image_unref(s, over); /* and what is behind it */
	assert_int_equal(n_images(), 0);
	assert_int_equal(count_entries(path_of(root, "trash")), 0);
	assert_err(store_image_ref(s, over, &err), err, ERR_INTERNAL, over);
	assert_err(make_image(s, "over", STORE_IMAGE_QCOW2, base, over, &err), err, ERR_INTERNAL, base);
	assert_int_equal(n_images(), 0);
	assert_int_equal(count_entries(path_of(root, "staging")), 0);
	store_close(s);
}

/* A template with a disk of each image (`second` NULL: of the first one alone), and, unless NULL, what its clones boot again. */
static int publish_all(struct store *s, const char *name, const char *const ids[2],
		       const struct manifest_payload *boots, struct err *err)
{
	struct staged *staged = NULL;
	struct manifest m;

	fields_init(manifest_fields, &m);
	m.name = strdup(name);
	m.source = strdup("file:///somewhere");
	m.ram_bytes = MEM_BYTES;
	m.vcpus = 1;
	m.disks = calloc(2, sizeof(*m.disks));
	m.disks[m.n_disks++] = (struct manifest_disk){ strdup("root"), strdup("/disk"), IMAGE_BYTES, strdup(ids[0]) };
	if (ids[1])
		m.disks[m.n_disks++] =
			(struct manifest_disk){ strdup("more"), strdup("/more"), IMAGE_BYTES, strdup(ids[1]) };
	if (boots) {
		m.payload = calloc(1, sizeof(*m.payload));
		m.payload->kernel = strdup(boots->kernel);
		m.payload->initramfs = boots->initramfs ? strdup(boots->initramfs) : NULL;
	}
	int r = import(s, snapshot, &staged, err);
	if (r == 0)
		r = staged_seal(staged, &m, err);
	if (r == 0)
		r = staged_publish(&staged, name, err);
	staged_discard(staged);
	fields_free(manifest_fields, &m);
	return r;
}

static int publish_with(struct store *s, const char *name, const char *id, struct err *err)
{
	return publish_all(s, name, (const char *const[]){ id, NULL }, NULL, err);
}

/* A template that has lost one image has not lost the others. */
static void stays_beside_a_missing_one(void **state)
{
	char here[STORE_ID_CHARS + 1], lost[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	assert_ok(make_image(s, "here", STORE_IMAGE_RAW, NULL, here, &err), err);
	assert_ok(make_image(s, "lost", STORE_IMAGE_RAW, NULL, lost, &err), err);
	assert_ok(publish_all(s, "one", (const char *const[]){ here, lost }, NULL, &err), err);
	store_close(s);
	char path[PATH_BYTES];
	snprintf(path, sizeof(path), "%s/images/%s", root, lost);
	remove_path(path);
	s = open_store();
	store_collect(s, nothing_used, NULL);
	assert_int_equal(access(data_of(here), F_OK), 0);
	assert_ok(store_delete(s, "one", &err), err);
	assert_int_equal(n_images(), 0);
	store_close(s);
}

static int publish_that_boots(struct store *s, const char *name, const char *id, const struct manifest_payload *boots,
			      struct err *err)
{
	return publish_all(s, name, (const char *const[]){ id, NULL }, boots, err);
}

/* A kernel is kept like a disk: as long as a template needs it, by the next daemon too, and checked with the template. */
static void kernels_are_kept_by_templates(void **state)
{
	char disk[STORE_ID_CHARS + 1], kernel[STORE_ID_CHARS + 1], initramfs[STORE_ID_CHARS + 1];
	struct manifest_payload both = { kernel, initramfs }, one = { kernel, NULL };
	struct store *s = open_store();
	struct manifest m = {};
	struct err err = {};
	int dir_fd = -1;

	(void)state;
	assert_ok(make_image(s, "disk", STORE_IMAGE_RAW, NULL, disk, &err), err);
	assert_ok(make_image(s, "kernel", STORE_IMAGE_RAW, NULL, kernel, &err), err);
	assert_ok(make_image(s, "initramfs", STORE_IMAGE_RAW, NULL, initramfs, &err), err);
	assert_ok(publish_that_boots(s, "both", disk, &both, &err), err);
	assert_ok(publish_that_boots(s, "one", disk, &one, &err), err);
	store_image_unref(s, disk);
	store_image_unref(s, kernel);
	store_image_unref(s, initramfs);
	store_close(s);
	s = open_store();
	store_collect(s, nothing_used, NULL);
	assert_int_equal(n_images(), 3);
	assert_ok(store_manifest(s, "both", &m, &err), err);
	assert_string_equal(m.payload->initramfs, initramfs);
	const char *const same[] = { disk };
	assert_ok(store_change_images(s, &m, same, &err), err); /* the kernel has one reference afterwards, as before */
	fields_free(manifest_fields, &m);
	assert_ok(store_delete(s, "both", &err), err);
	assert_int_equal(n_images(), 2);
	assert_int_equal(chmod(data_of(kernel), 0600), 0);
	assert_int_equal(truncate(data_of(kernel), 1), 0);
	assert_err(store_acquire(s, "one", &dir_fd, &err), err, ERR_INTERNAL, "kernel\nimage");
	assert_ok(store_delete(s, "one", &err), err);
	assert_int_equal(n_images(), 0);
	both.initramfs[0] = 'g';
	assert_ok(make_image(s, "disk", STORE_IMAGE_RAW, NULL, disk, &err), err);
	assert_ok(make_image(s, "kernel", STORE_IMAGE_RAW, NULL, kernel, &err), err);
	assert_err(publish_that_boots(s, "three", disk, &both, &err), err, ERR_INTERNAL,
		   "initramfs\nthe store has no image");
	store_image_unref(s, disk);
	store_image_unref(s, kernel);
	assert_int_equal(n_images(), 0); /* the refused template has kept nothing */
	store_close(s);
}

static void is_kept_by_templates(void **state)
{
	char base[STORE_ID_CHARS + 1], over[STORE_ID_CHARS + 1], none[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	assert_ok(make_image(s, "base", STORE_IMAGE_RAW, NULL, base, &err), err);
	assert_ok(make_image(s, "over", STORE_IMAGE_QCOW2, base, over, &err), err);
	assert_ok(publish_with(s, "one", over, &err), err);
	assert_err(publish_with(s, "one", over, &err), err, ERR_CONFLICT, "exists"); /* its reference goes again */
	assert_ok(publish_with(s, "two", base, &err), err);
	store_image_unref(s, base);
	store_image_unref(s, over);
	assert_int_equal(n_images(), 2);
	assert_ok(make_image(s, "of nobody", STORE_IMAGE_RAW, NULL, none, &err), err);
	store_close(s);
	s = open_store(); /* a crash later */
	assert_int_equal(n_images(), 3);
	store_collect(s, nothing_used, NULL);
	assert_int_equal(n_images(), 2);
	assert_ok(store_delete(s, "one", &err), err);
	assert_int_equal(n_images(), 1);
	assert_ok(store_delete(s, "two", &err), err);
	assert_int_equal(n_images(), 0);
	memset(none, 'a', STORE_ID_CHARS);
	assert_err(publish_with(s, "three", none, &err), err, ERR_INTERNAL, "the store has no image aaa");
	store_close(s);
}

static void stays_when_it_is_unsure(void **state)
{
	char id[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct err err = {};

	(void)state;
	assert_ok(make_image(s, "base", STORE_IMAGE_RAW, NULL, id, &err), err);
	assert_ok(publish_with(s, "one", id, &err), err);
	assert_int_equal(chmod(template_file("one", "."), 0700), 0);
	unlink(template_file("one", "manifest.json"));
	put_file(template_file("one", "manifest.json"), "torn");
	store_close(s);
	s = open_store();
	store_collect(s, nothing_used, NULL);
	assert_ok(store_image_ref(s, id, &err), err);
	store_image_unref(s, id);
	assert_int_equal(n_images(), 1);
	store_close(s);
}

static void checks_what_was_sealed(void **state)
{
	char id[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct store_chain chain;
	struct err err = {};
	int fd;

	(void)state;
	assert_ok(make_image(s, "base", STORE_IMAGE_RAW, NULL, id, &err), err);
	assert_ok(store_chain_read(s, id, &chain, &err), err);
	assert_int_equal(chain.n, 1);
	assert_ok(store_layer_open(s, &chain.layers[0], &fd, &err), err);
	close(fd);
	assert_ok(publish_with(s, "one", id, &err), err);
	assert_ok(store_verify(s, "one", &err), err);
	chmod(data_of(id), 0600);
	assert_err(store_layer_open(s, &chain.layers[0], &fd, &err), err, ERR_INTERNAL, "has ctime");
	assert_err(store_acquire(s, "one", &fd, &err), err, ERR_INTERNAL, id);
	put_bytes(data_of(id), 5, "x", 1);
	assert_err(store_verify(s, "one", &err), err, ERR_INTERNAL, "chunk 0");
	static const char *const no_ids[] = { "", "..", "../../../etc", "0123" };
	for (unsigned i = 0; i < ARRAY_LEN(no_ids); i++)
		assert_err(store_chain_read(s, no_ids[i], &chain, &err), err, ERR_INTERNAL, "is no image's id");
	store_close(s);
}

static void has_an_end(void **state)
{
	char id[STORE_ID_CHARS + 1] = "", behind[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct store_chain chain;
	struct err err = {};

	(void)state;
	for (unsigned i = 0; i <= STORE_CHAIN_MAX; i++) {
		memcpy(behind, id, sizeof(id));
		assert_ok(make_image(s, "x", i ? STORE_IMAGE_QCOW2 : STORE_IMAGE_RAW, i ? behind : NULL, id, &err),
			  err);
	}
	assert_ok(store_chain_read(s, behind, &chain, &err), err);
	assert_int_equal(chain.n, STORE_CHAIN_MAX);
	assert_err(store_chain_read(s, id, &chain, &err), err, ERR_INTERNAL, "more than 15 images behind it");
	store_close(s);
}

static bool is_the_first(void *arg, const char *name)
{
	return strcmp(arg, name) == 0;
}

static void overlays(void **state)
{
	char id[STORE_ID_CHARS + 1];
	struct store *s = open_store();
	struct store_overlay o[3];
	struct store_chain chain;
	struct qcow2_header h;
	struct err err = {};
	struct stat st;

	(void)state;
	assert_ok(make_image(s, "base", STORE_IMAGE_RAW, NULL, id, &err), err);
	assert_ok(store_chain_read(s, id, &chain, &err), err);
	for (unsigned i = 0; i < ARRAY_LEN(o); i++)
		assert_ok(store_overlay_make(s, &chain, &o[i], &err), err);
	assert_int_equal(fstat(o[0].fd, &st), 0);
	if (o[0].type == STORE_IMAGE_QCOW2) { /* else the scratch directory has reflinks */
		char backing[PATH_BYTES + QCOW2_NAME_MAX];
		assert_ok(qcow2_read_header(o[0].fd, (uint64_t)st.st_size, o[0].path, &h, &err), err);
		assert_int_equal(h.bytes, IMAGE_BYTES);
		assert_string_equal(h.backing_format, "raw");
		snprintf(backing, sizeof(backing), "%.*s/%s", (int)(strrchr(o[0].path, '/') - o[0].path), o[0].path,
			 h.backing);
		assert_int_equal(access(backing, R_OK), 0);
	}
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	assert_int_equal(fcntl(o[1].fd, F_OFD_SETLK, &lock), 0);
	assert_int_equal(mkdir(path_of(root, "overlays/short"), 0700),
			 0); /* no name of an overlay: not ours to remove */
	store_collect(s, is_the_first, o[0].name);
	assert_int_equal(access(o[0].path, F_OK), 0); /* used */
	assert_int_equal(access(o[1].path, F_OK), 0); /* a VM has it */
	assert_int_equal(access(o[2].path, F_OK), -1);
	store_overlay_remove(s, o[0].name);
	store_overlay_remove(s, "../images");
	assert_int_equal(access(o[0].path, F_OK), -1);
	assert_int_equal(count_entries(path_of(root, "overlays")), 2);
	for (unsigned i = 0; i < ARRAY_LEN(o); i++)
		store_overlay_done(&o[i]);
	store_close(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(is_called_by_what_it_is, drop_root),
		cmocka_unit_test_teardown(is_written_after_the_copy, drop_root),
		cmocka_unit_test_teardown(has_a_length, drop_root),
		cmocka_unit_test_teardown(goes_with_its_last_reference, drop_root),
		cmocka_unit_test_teardown(is_kept_by_templates, drop_root),
		cmocka_unit_test_teardown(stays_beside_a_missing_one, drop_root),
		cmocka_unit_test_teardown(kernels_are_kept_by_templates, drop_root),
		cmocka_unit_test_teardown(stays_when_it_is_unsure, drop_root),
		cmocka_unit_test_teardown(checks_what_was_sealed, drop_root),
		cmocka_unit_test_teardown(has_an_end, drop_root),
		cmocka_unit_test_teardown(overlays, drop_root),
	};

	return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
