// SPDX-License-Identifier: Apache-2.0
/*
 * POST /files: application/octet-stream for one file, multipart/form-data for several ones, either of
 * them as gzip. The bytes go through up to three readers and are written as they come.
 */
#include <errno.h>
#include <string.h>

#include "guest/connect.h"
#include "guest/files/entry.h"
#include "guest/files/files.h"
#include "guest/files/filesystem.h"
#include "guest/files/gunzip.h"
#include "guest/files/multipart.h"
#include "guest/files/upload.h"

enum { METADATA_MAX = METADATA_BYTES_MAX / (int)sizeof(METADATA_PREFIX) };

struct post {
	struct owner_ids owner;
	char *home;
	const char *path; /* of the query; NULL: the parts say theirs */
	bool is_multipart, is_gzip;
	struct gunzip gunzip;
	struct multipart multipart;
	struct upload upload;
	bool uploading;
	char *at;           /* the absolute path of the upload */
	struct strbuf done; /* absolute paths of the files so far, each with a NUL */
	struct strbuf answer;
	struct metadata metadata[METADATA_MAX];
	unsigned n_metadata;
};

static void post_free(struct post *p)
{
	if (p->uploading)
		upload_done(&p->upload);
	gunzip_done(&p->gunzip);
	multipart_done(&p->multipart);
	free(p->home);
	free(p->at);
	strbuf_done(&p->done);
	strbuf_done(&p->answer);
	for (unsigned i = 0; i < p->n_metadata; i++) {
		free(p->metadata[i].key);
		free(p->metadata[i].value);
	}
	free(p);
}

void files_fail(struct exchange *ex, const struct err *err)
{
	static const int status[] = {
		[ERR_NONE] = 500, [ERR_INVALID] = 400,  [ERR_NOT_FOUND] = 404, [ERR_CONFLICT] = 409,
		[ERR_BUSY] = 503, [ERR_INTERNAL] = 500, [ERR_HOST] = 500,
	};
	char line[ERR_MSG_BYTES];
	const bool full = err->num == -ENOSPC || err->num == -EDQUOT;

	ex_fail(ex, full ? 507 : status[err->code], "%s", err_line(err, line, sizeof(line)));
}

/* ---- one file ---- */

static bool was_written(const struct post *p, const char *path)
{
	for (size_t i = 0; i < p->done.len; i += strlen(p->done.text + i) + 1)
		if (strcmp(p->done.text + i, path) == 0)
			return true;
	return false;
}

static int begin_file(struct post *p, const char *path, struct err *err)
{
	free(steal_ptr(&p->at));
	if (path_resolve(path, p->home, &p->at, err) < 0)
		return err->num;
	if (was_written(p, p->at))
		return err_set(err, ERR_INVALID, "path '%s' is named for two files of one request", p->at);
	int r = upload_begin(&p->upload, p->at, &p->owner, err);
	p->uploading = r == 0;
	return r;
}

static void add_answer(struct post *p)
{
	struct strbuf *b = &p->answer;

	strbuf_puts(b, b->len ? ",{\"name\":" : "[{\"name\":");
	entry_text(b, path_name(p->at));
	strbuf_puts(b, ",\"type\":\"file\",\"path\":");
	entry_text(b, p->at);
	for (unsigned i = 0; i < p->n_metadata; i++) {
		strbuf_puts(b, i ? "," : ",\"metadata\":{");
		entry_text(b, p->metadata[i].key);
		strbuf_putc(b, ':');
		entry_text(b, p->metadata[i].value);
	}
	strbuf_puts(b, p->n_metadata ? "}}" : "}");
}

static int end_file(struct post *p, struct err *err)
{
	int r = upload_commit(&p->upload, p->metadata, p->n_metadata, err);

	upload_done(&p->upload);
	p->uploading = false;
	if (r < 0)
		return r;
	strbuf_add(&p->done, p->at, strlen(p->at) + 1);
	add_answer(p);
	return 0;
}

/* ---- parts ---- */

static int begin_part(void *ctx, const char *name, const char *filename, struct err *err)
{
	struct post *p = ctx;

	if (!name || strcmp(name, "file") != 0)
		return 0;
	if (p->answer.len > LIMIT_BODY)
		return err_set(err, ERR_INVALID, "multipart: the files' paths are more than %d bytes", LIMIT_BODY);
	if (!p->path && (!filename || !*filename))
		return err_set(err, ERR_INVALID, "multipart: a file has neither a filename nor the parameter path");
	return begin_file(p, p->path ? p->path : filename, err);
}

static int part_data(void *ctx, const char *data, size_t len, struct err *err)
{
	struct post *p = ctx;

	return p->uploading ? upload_write(&p->upload, data, len, err) : 0;
}

static int end_part(void *ctx, struct err *err)
{
	struct post *p = ctx;

	return p->uploading ? end_file(p, err) : 0;
}

static const struct multipart_sink parts = { begin_part, part_data, end_part };

/* ---- the body ---- */

static int take(void *ctx, const char *data, size_t len, struct err *err)
{
	struct post *p = ctx;

	return p->is_multipart ? multipart_feed(&p->multipart, data, len, err)
			       : upload_write(&p->upload, data, len, err);
}

static void fail(struct exchange *ex, const struct err *err)
{
	post_free(ex->state);
	files_fail(ex, err);
}

static void on_body(struct exchange *ex, const char *data, size_t len)
{
	struct post *p = ex->state;
	struct err err = {};

	if ((p->is_gzip ? gunzip_feed(&p->gunzip, data, len, &err) : take(p, data, len, &err)) < 0)
		fail(ex, &err);
}

static void on_body_end(struct exchange *ex)
{
	struct post *p = ex->state;
	struct err err = {};
	int r = p->is_gzip ? gunzip_finish(&p->gunzip, &err) : 0;

	if (r == 0)
		r = p->is_multipart ? multipart_finish(&p->multipart, &err) : end_file(p, &err);
	strbuf_puts(&p->answer, p->answer.len ? "]" : "[]");
	if (r == 0 && p->answer.failed)
		r = err_num(&err, ERR_INTERNAL, ENOMEM, "answer");
	if (r < 0)
		return fail(ex, &err);
	autostrbuf struct strbuf answer = p->answer;
	p->answer = (struct strbuf){};
	post_free(p);
	ex_answer(ex, 200, "application/json", answer.text, answer.len);
}

static void on_gone(struct exchange *ex)
{
	post_free(ex->state);
}

/* ---- the head ---- */

static bool is_printable(const char *text)
{
	for (; *text; text++)
		if (*text < 0x20 || *text > 0x7e)
			return false;
	return true;
}

static bool has_key(const struct post *p, const char *key)
{
	for (unsigned i = 0; i < p->n_metadata; i++)
		if (strcmp(p->metadata[i].key, key) == 0)
			return true;
	return false;
}

/* The headers X-Metadata-KEY; of several ones with one key the first. */
static int read_metadata(const struct exchange *ex, struct post *p, struct err *err)
{
	static const char prefix[] = "x-metadata-";
	const char *name, *value;
	size_t bytes = 0;

	for (size_t i = 0; ex_header_at(ex, i, &name, &value); i++) {
		const char *key = name + sizeof(prefix) - 1;
		if (strncmp(name, prefix, sizeof(prefix) - 1) != 0 || !*key || has_key(p, key))
			continue;
		if (!is_printable(key) || !is_printable(value) || strlen(key) > METADATA_KEY_MAX)
			return err_set(err, ERR_INVALID,
				       "metadata '%.64s' is not printable ASCII, or its name longer than %d bytes", key,
				       METADATA_KEY_MAX);
		bytes += sizeof(METADATA_PREFIX) - 1 + strlen(key) + strlen(value);
		if (bytes > METADATA_BYTES_MAX || p->n_metadata == METADATA_MAX)
			return err_set(err, ERR_INVALID, "metadata: more than %d bytes", METADATA_BYTES_MAX);
		struct metadata *m = &p->metadata[p->n_metadata++];
		*m = (struct metadata){ strdup(key), strdup(value) };
		if (!m->key || !m->value)
			return err_num(err, ERR_INTERNAL, ENOMEM, "metadata");
	}
	return 0;
}

static int read_head(const struct exchange *ex, struct post *p, struct err *err)
{
	const char *type = ex_header(ex, "content-type"), *coding = ex_header(ex, "content-encoding");
	static const char raw[] = "application/octet-stream";
	const bool is_raw = type && strncasecmp(type, raw, sizeof(raw) - 1) == 0 &&
			    strchr("; \t", type[sizeof(raw) - 1]);

	p->path = ex_query(ex, "path");
	p->is_multipart = !is_raw;
	p->is_gzip = coding && strcasecmp(coding, "gzip") == 0;
	if (coding && !p->is_gzip && strcasecmp(coding, "identity") != 0)
		return err_set(err, ERR_INVALID, "content encoding '%.64s' is neither gzip nor identity", coding);
	if (read_metadata(ex, p, err) < 0)
		return err->num;
	if (p->is_gzip && gunzip_init(&p->gunzip, take, p, err) < 0)
		return err->num;
	if (p->is_multipart)
		return multipart_init(&p->multipart, type ? type : "", &parts, p, err);
	if (!p->path)
		return err_set(err, ERR_INVALID, "the parameter path is needed with %s", raw);
	return begin_file(p, p->path, err);
}

void files_post(struct exchange *ex)
{
	struct post *p = calloc(1, sizeof(*p));
	struct err err = {};

	if (!p)
		return ex_fail(ex, 500, "no memory");
	ex->state = p;
	if (!files_user(ex, &p->owner, &p->home))
		return post_free(p);
	if (read_head(ex, p, &err) < 0)
		return fail(ex, &err);
	ex->on_body = on_body;
	ex->on_body_end = on_body_end;
	ex->on_gone = on_gone;
}
