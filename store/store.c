// SPDX-License-Identifier: Apache-2.0
/* Published templates: their names, references, removal and verification. */
#include "store/store.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/log.h"
#include "store/store_internal.h"

struct store_ref {
	struct store_ref *next;
	unsigned count;
	char name[STORE_NAME_MAX + 1];
};

int store_check_name(const char *name, struct err *err)
{
	static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t len = strnlen(name, STORE_NAME_MAX + 1);

	if (len == 0)
		return err_set(err, ERR_INVALID, "template name is empty");
	if (len > STORE_NAME_MAX)
		return err_set(err, ERR_INVALID, "template name '%.*s…' has more than %d bytes", STORE_NAME_MAX / 2,
			       name, STORE_NAME_MAX);
	if (strspn(name, allowed) != len || strchr("._-", name[0]))
		return err_set(err, ERR_INVALID,
			       "template name '%s' is not made of [A-Za-z0-9._-], first a letter or digit", name);
	return 0;
}

/* ---- names ---- */

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool is_template(const struct store *s, const struct dirent *e)
{
	struct err ignored = {};
	struct stat st;

	if (store_check_name(e->d_name, &ignored) < 0)
		return false;
	if (e->d_type != DT_UNKNOWN)
		return e->d_type == DT_DIR;
	return fstatat(s->templates_fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* Appends a name to a NULL-terminated array of n names. The array doubles at powers of two. */
static bool add_name(char ***names, size_t n, const char *name)
{
	if ((n & (n + 1)) == 0) { /* n is 0, 1, 3, 7 …: the array is full with its NULL */
		char **more = realloc(*names, (2 * n + 2) * sizeof(**names));
		if (!more)
			return false;
		*names = more;
	}
	(*names)[n] = strdup(name);
	if (!(*names)[n])
		return false;
	(*names)[n + 1] = NULL;
	return true;
}

static void auto_names(char ***names)
{
	store_names_free(*names);
}

int store_names(struct store *s, char ***ret_names, struct err *err)
{
	autodir DIR *d = layout_list(s->templates_fd);
	__attribute__((cleanup(auto_names))) char **names = calloc(2, sizeof(*names));
	size_t n = 0;

	if (!d)
		return err_sys(err, ERR_INTERNAL, "list '%s/templates'", s->root);
	if (!names)
		return err_num(err, ERR_INTERNAL, ENOMEM, "list templates");
	struct dirent *e;
	while ((e = layout_next(d))) {
		if (!is_template(s, e))
			continue;
		if (!add_name(&names, n, e->d_name))
			return err_num(err, ERR_INTERNAL, ENOMEM, "list templates");
		n++;
	}
	if (errno)
		return err_sys(err, ERR_INTERNAL, "list '%s/templates'", s->root);
	qsort(names, n, sizeof(names[0]), compare_names);
	*ret_names = steal_ptr(&names);
	return 0;
}

void store_names_free(char **names)
{
	for (char **n = names; n && *n; n++)
		free(*n);
	free(names);
}

/* ---- references ---- */

static struct store_ref **find_ref_locked(struct store *s, const char *name)
{
	struct store_ref **at = &s->refs;

	while (*at && strcmp((*at)->name, name) != 0)
		at = &(*at)->next;
	return at;
}

static int take_ref(struct store *s, const char *name, struct err *err)
{
	if (store_check_name(name, err) < 0)
		return err->num;
	pthread_mutex_lock(&s->mutex);
	struct store_ref **at = find_ref_locked(s, name);
	if (!*at)
		*at = calloc(1, sizeof(**at));
	struct store_ref *ref = *at;
	if (ref && ref->count++ == 0)
		snprintf(ref->name, sizeof(ref->name), "%s", name);
	pthread_mutex_unlock(&s->mutex);
	return ref ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "use template '%s'", name);
}

void store_release(struct store *s, const char *name)
{
	pthread_mutex_lock(&s->mutex);
	struct store_ref **at = find_ref_locked(s, name), *ref = *at;
	assert(ref);
	if (--ref->count == 0) {
		*at = ref->next;
		free(ref);
	}
	pthread_mutex_unlock(&s->mutex);
}

static int open_template(struct store *s, const char *name, int *ret_dir_fd, struct err *err)
{
	if (store_check_name(name, err) < 0)
		return err->num;
	int fd = layout_open_dir(s->templates_fd, name);
	if (fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP)
		return err_set(err, ERR_NOT_FOUND, "template '%s' does not exist", name);
	if (fd < 0)
		return err_num(err, ERR_INTERNAL, -fd, "open template '%s'", name);
	*ret_dir_fd = fd;
	return 0;
}

/* Was the directory removed since it was opened? Another one may be in its place. */
static bool is_gone(struct store *s, const char *name, int dir_fd)
{
	struct stat now, opened;

	return fstat(dir_fd, &opened) == 0 &&
	       (fstatat(s->templates_fd, name, &now, AT_SYMLINK_NOFOLLOW) < 0 || now.st_ino != opened.st_ino);
}

static int open_manifest(struct store *s, const char *name, int *ret_dir_fd, struct manifest *ret, struct err *err)
{
	autoclose int dir_fd = -1;

	if (open_template(s, name, &dir_fd, err) < 0)
		return err->num;
	if (manifest_read(dir_fd, name, ret, err) < 0) {
		if (err->code == ERR_NOT_FOUND && is_gone(s, name, dir_fd))
			return err_set(err, ERR_NOT_FOUND, "template '%s' does not exist", name);
		err->code = ERR_INTERNAL;
		return err_wrap(err, "template '%s' is damaged", name);
	}
	*ret_dir_fd = steal_fd(&dir_fd);
	return 0;
}

int store_manifest(struct store *s, const char *name, struct manifest *ret, struct err *err)
{
	autoclose int dir_fd = -1;

	return open_manifest(s, name, &dir_fd, ret, err);
}

/* Opens a template's directory and checks each of its files. */
static int check_files(struct store *s, const char *name, check_file_fn *check, int *ret_dir_fd, struct err *err)
{
	autoclose int dir_fd = -1;
	struct manifest m;
	int r = 0;

	if (open_manifest(s, name, &dir_fd, &m, err) < 0)
		return err->num;
	for (unsigned i = 0; i < STORE_FILES && r == 0; i++)
		r = check(dir_fd, &m.files[i], err);
	if (r == 0)
		r = images_check(s, &m, check, err);
	fields_free(manifest_fields, &m);
	if (r < 0)
		return err_wrap(err, "template '%s' is damaged", name);
	*ret_dir_fd = steal_fd(&dir_fd);
	return 0;
}

int store_acquire(struct store *s, const char *name, int *ret_dir_fd, struct err *err)
{
	if (take_ref(s, name, err) < 0)
		return err->num;
	if (check_files(s, name, sealed_check, ret_dir_fd, err) < 0) {
		store_release(s, name);
		return err->num;
	}
	return 0;
}

/* ---- removal ---- */

static int move_to_trash_locked(struct store *s, const char *name, const char *trash_name, struct err *err)
{
	autoclose int dir_fd = -1;
	const struct store_ref *ref = *find_ref_locked(s, name);

	if (ref)
		return err_set(err, ERR_CONFLICT, "template '%s' is in use %u times", name, ref->count);
	if (open_template(s, name, &dir_fd, err) < 0)
		return err->num;
	/* Only root may move a directory that it may not write. */
	if (fchmod(dir_fd, 0700) < 0 || renameat(s->templates_fd, name, s->trash_fd, trash_name) < 0)
		return err_sys(err, ERR_INTERNAL, "remove template '%s'", name);
	return 0;
}

int store_delete(struct store *s, const char *name, struct err *err)
{
	char trash_name[RANDOM_NAME];
	struct err unread = {};
	struct manifest m = {};

	if (store_check_name(name, err) < 0 || layout_random_name(trash_name, err) < 0)
		return err->num;
	bool known = store_manifest(s, name, &m, &unread) ==
		     0; /* what an unreadable one refers to is not removed in this run */
	pthread_mutex_lock(&s->mutex);
	int r = move_to_trash_locked(s, name, trash_name, err);
	pthread_mutex_unlock(&s->mutex);
	if (r == 0 && known)
		images_unref_all(s, &m);
	if (known)
		fields_free(manifest_fields, &m);
	if (r < 0)
		return r;
	if (fsync(s->templates_fd) < 0 || fsync(s->trash_fd) < 0)
		log_warn("store '%s': removal of template '%s' may not last: %m", s->root, name);
	layout_remove_trash(s, trash_name);
	return 0;
}

/* ---- other images ---- */

/* The directory is writable for the moment: only root needs no right to rename in it. */
static int replace_manifest(struct store *s, const struct manifest *m, struct err *err)
{
	autoclose int dir_fd = -1;

	if (open_template(s, m->name, &dir_fd, err) < 0)
		return err->num;
	if (fchmod(dir_fd, 0700) < 0)
		return err_sys(err, ERR_INTERNAL, "change template '%s'", m->name);
	int r = manifest_replace(dir_fd, m, err);
	if (fchmod(dir_fd, 0500) < 0)
		log_warn("store '%s': template '%s' stays writable: %m", s->root, m->name);
	return r;
}

int store_change_images(struct store *s, struct manifest *m, const char *const *images, struct err *err)
{
	autofree struct manifest_disk *was = calloc(m->n_disks + 1UL, sizeof(*was));
	int r = 0;

	if (!was)
		return err_num(err, ERR_INTERNAL, ENOMEM, "change template '%s'", m->name);
	memcpy(was, m->disks, m->n_disks * sizeof(*was));
	for (uint32_t i = 0; i < m->n_disks && r == 0; i++)
		if (images[i] && !(m->disks[i].image = strdup(images[i])))
			r = err_num(err, ERR_INTERNAL, ENOMEM, "change template '%s'", m->name);
	bool refs = r == 0 && images_ref_all(s, m, err) == 0;
	r = refs ? replace_manifest(s, m, err) : err->num;
	const struct manifest before = { .disks = was, .n_disks = m->n_disks, .payload = m->payload };
	if (refs)
		images_unref_all(s, r == 0 ? &before : m);
	for (uint32_t i = 0; i < m->n_disks; i++) {
		if (m->disks[i].image == was[i].image)
			continue;
		free(r == 0 ? was[i].image : m->disks[i].image);
		m->disks[i].image = r == 0 ? m->disks[i].image : was[i].image;
	}
	return r;
}

/* ---- verification ---- */

int store_verify(struct store *s, const char *name, struct err *err)
{
	autoclose int dir_fd = -1;

	if (take_ref(s, name, err) < 0)
		return err->num;
	int r = check_files(s, name, sealed_verify, &dir_fd, err);
	store_release(s, name);
	return r;
}
