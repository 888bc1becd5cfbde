// SPDX-License-Identifier: Apache-2.0
/* What the daemon says to a guest's agent so that the clone becomes itself. */
#include "forkd/agent/identity.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "common/base64.h"
#include "forkd/agent/agent_http.h"
#include "forkd/body.h"
#include "forkd/errors.h"

enum {
	ENTROPY_BYTES = 64,
	ID_BYTES = 16,
	FILES_MAX = 64,            /* entries */
	SECRETS_BYTES_MAX = 65536, /* of env and files together, as JSON text */
	PATH_BYTES_MAX = 1024,
};

/* ---- overrides.identity ---- */

struct wish_text {
	char *hostname, *machine_id, *default_user;
};
static const struct field wish_fields[] = {
	F(struct wish_text, hostname),
	F(struct wish_text, machine_id),
	F(struct wish_text, default_user),
	F_END,
};
static const char *const by_hand[] = { "env", "files", NULL };

struct wished_file {
	char *path, *mode, *owner, *content, *content_b64;
};
static const struct field file_fields[] = {
	F(struct wished_file, path, .flags = F_REQUIRED),
	F(struct wished_file, mode),
	F(struct wished_file, owner),
	F(struct wished_file, content),
	F(struct wished_file, content_b64),
	F_END,
};

/* RFC 1123: labels of letters, digits and inner hyphens, 63 at most; Linux keeps 64 bytes of a host's name. */
static bool is_hostname(const char *s)
{
	size_t label = 0, len = strlen(s);

	if (len < 1 || len > 64)
		return false;
	for (size_t i = 0; i <= len; i++) {
		bool end = i == len || s[i] == '.';
		if (!end && !isalnum((unsigned char)s[i]) && s[i] != '-')
			return false;
		if ((s[i] == '-' && label == 0) || (end && (label == 0 || s[i - 1] == '-')))
			return false;
		label = end ? 0 : label + 1;
		if (label > 63)
			return false;
	}
	return true;
}

static bool is_machine_id(const char *s)
{
	return strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32 && strspn(s, "0") < 32;
}

/* With all of its padding, which the agent could do without. */
static bool is_base64(const char *s)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	size_t len = strlen(s), n = strspn(s, digits);

	return len % 4 == 0 && len - n <= 2 && strspn(s + n, "=") == len - n;
}

static int check_file(const struct wished_file *f, unsigned i, uint32_t *ret_mode, struct err *err)
{
	char *end = NULL;

	*ret_mode = f->mode ? (uint32_t)strtoul(f->mode, &end, 8) : 0600;
	if (f->mode && (!isdigit((unsigned char)f->mode[0]) || *end || *ret_mode > 07777))
		return fail(err, E_BAD_OVERRIDE, "overrides.identity.files[%u].mode: '%.16s' is no octal mode", i,
			    f->mode);
	if (f->path[0] != '/' || strlen(f->path) > PATH_BYTES_MAX)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.identity.files[%u].path: expected an absolute path of at most %d bytes", i,
			    PATH_BYTES_MAX);
	if (!f->content == !f->content_b64)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.identity.files[%u]: expected one of content and content_b64", i);
	if (f->content_b64 && !is_base64(f->content_b64))
		return fail(err, E_BAD_OVERRIDE, "overrides.identity.files[%u].content_b64 is no base64", i);
	return 0;
}

/* Adds a file in the agent's form. */
static int add_file(const struct json_node *node, unsigned i, struct strbuf *out, struct err *err)
{
	struct wished_file f;
	uint32_t mode;
	char what[64];

	snprintf(what, sizeof(what), "overrides.identity.files[%u]", i);
	fields_init(file_fields, &f);
	int r = body_load(file_fields, NULL, &f, node, what, err);
	if (r >= 0)
		r = check_file(&f, i, &mode, err);
	if (r >= 0) {
		strbuf_puts(out, i ? ",{\"path\":" : "{\"path\":");
		strbuf_json(out, f.path, strlen(f.path));
		strbuf_printf(out, ",\"mode\":%u", mode);
		if (f.owner)
			json_member(out, "owner", f.owner);
		strbuf_puts(out, ",\"content\":\"");
		if (f.content)
			base64_add(out, f.content, strlen(f.content));
		else
			strbuf_puts(out, f.content_b64);
		strbuf_puts(out, "\"}");
	}
	wipe_text(f.content);
	wipe_text(f.content_b64);
	fields_free(file_fields, &f);
	return r;
}

static int load_files(const struct json_node *files, struct strbuf *out, struct err *err)
{
	unsigned i = 0;

	if (files->type != JSON_ARRAY || files->count > FILES_MAX)
		return fail(err, E_BAD_OVERRIDE, "overrides.identity.files: expected an array of at most %d objects",
			    FILES_MAX);
	strbuf_putc(out, '[');
	for (json_each(f, files))
		if (add_file(f, i++, out, err) < 0)
			return err->num;
	strbuf_putc(out, ']');
	return 0;
}

static int load_secrets(const struct json_node *node, struct identity_wish *w, struct err *err)
{
	const struct json_node *env = json_get(node, "env"), *files = json_get(node, "files");
	struct strbuf env_text = {}, files_text = {};
	int r = 0;

	if (env && env->type != JSON_NULL) {
		r = body_check_env(env, "overrides.identity.env", err);
		if (r < 0)
			fail_as(err, E_BAD_OVERRIDE, NULL);
		json_text(env, &env_text);
	}
	if (r >= 0 && files && files->type != JSON_NULL)
		r = load_files(files, &files_text, err);
	w->env = env_text.text;
	w->files = files_text.text;
	if (r < 0)
		return r;
	if (env_text.failed || files_text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "load overrides.identity");
	if (env_text.len + files_text.len > SECRETS_BYTES_MAX)
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.identity: env and files have %zu bytes, at most %d are possible",
			    env_text.len + files_text.len, SECRETS_BYTES_MAX);
	return 0;
}

int identity_wish_load(const struct json_node *node, struct identity_wish *ret, struct err *err)
{
	struct wish_text text;

	if (!node || node->type == JSON_NULL)
		return 0;
	ret->given = true;
	fields_init(wish_fields, &text);
	if (body_load(wish_fields, by_hand, &text, node, "overrides.identity", err) < 0)
		return fail_as(err, E_BAD_OVERRIDE, NULL);
	ret->hostname = text.hostname;
	ret->machine_id = text.machine_id;
	ret->default_user = text.default_user;
	if (ret->hostname && !is_hostname(ret->hostname))
		return fail(err, E_BAD_OVERRIDE, "overrides.identity.hostname: '%.80s' is no name of a host",
			    ret->hostname);
	if (ret->machine_id && !is_machine_id(ret->machine_id))
		return fail(err, E_BAD_OVERRIDE,
			    "overrides.identity.machine_id: '%.40s' is not 32 of 0-9 and a-f, or is zero",
			    ret->machine_id);
	if (ret->default_user && (!ret->default_user[0] || !agent_user_is_name(ret->default_user)))
		return fail(err, E_BAD_OVERRIDE, "overrides.identity.default_user: '%.80s' is no name of a user",
			    ret->default_user);
	return load_secrets(node, ret, err);
}

void identity_wish_done(struct identity_wish *w)
{
	wipe_text(w->env);
	wipe_text(w->files);
	free(w->hostname);
	free(w->machine_id);
	free(w->default_user);
	free(w->env);
	free(w->files);
	*w = (struct identity_wish){};
}

static bool copy_text(const char *from, char **ret)
{
	*ret = from ? strdup(from) : NULL;
	return *ret || !from;
}

int identity_wish_copy(const struct identity_wish *from, struct identity_wish *ret, struct err *err)
{
	struct identity_wish w = { .given = from->given };

	if (copy_text(from->hostname, &w.hostname) && copy_text(from->machine_id, &w.machine_id) &&
	    copy_text(from->default_user, &w.default_user) && copy_text(from->env, &w.env) &&
	    copy_text(from->files, &w.files)) {
		*ret = w;
		return 0;
	}
	identity_wish_done(&w);
	return err_num(err, ERR_INTERNAL, ENOMEM, "copy overrides.identity");
}

bool identity_wish_is_secret(const struct identity_wish *w)
{
	return w->env || w->files;
}

/* ---- what the agent is asked ---- */

const struct field agent_hello_fields[] = {
	F(struct agent_hello, agent, .flags = F_REQUIRED),
	F(struct agent_hello, protocol, .flags = F_REQUIRED),
	F_END,
};

/* The guest's words in a message or a manifest: ASCII, short. */
static void tame(char *s)
{
	for (size_t i = 0; s[i]; i++) {
		if (i == 40)
			s[i] = '\0';
		else if (s[i] < ' ' || s[i] > '~')
			s[i] = '?';
	}
}

const char agent_hello_request[] = "GET /v1/hello HTTP/1.1\r\nHost: agent\r\n\r\n";
const struct dial_to agent_hello_to = {
	.port = AGENT_PRIVATE_PORT,
	.first = agent_hello_request,
	.first_len = sizeof(agent_hello_request) - 1,
};

int agent_hello(int fd, uint64_t deadline_ns, struct agent_hello *ret, struct err *err)
{
	autoanswer struct agent_answer a = {};
	struct agent_hello h;

	if (agent_receive(fd, deadline_ns, &a, err) < 0 || agent_want(&a, 200, "hello", err) < 0)
		return err->num;
	if (!a.body)
		return fail(err, E_AGENT, "hello: the guest's agent says nothing of itself");
	fields_init(agent_hello_fields, &h);
	if (fields_load(agent_hello_fields, &h, a.body, "hello", err) < 0)
		return fail_as(err, E_AGENT, "the guest's agent");
	tame(h.agent);
	if (h.protocol != AGENT_PROTOCOL) {
		fail(err, E_VERSION, "the guest's agent %s speaks protocol %u, this forkd %d", h.agent, h.protocol,
		     AGENT_PROTOCOL);
		fields_free(agent_hello_fields, &h);
		return err->num;
	}
	*ret = h;
	return 0;
}

static int command(int fd, const char *target, const struct strbuf *body, uint64_t deadline_ns, struct err *err)
{
	const struct agent_request rq = { .method = "POST", .target = target, .body = body, .deadline_ns = deadline_ns };
	autoanswer struct agent_answer a = {};

	return agent_exchange(fd, &rq, &a, err) < 0 ? err->num : agent_want(&a, 200, target + strlen("/v1/"), err);
}

static uint64_t wall_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int agent_freeze(int fd, uint64_t deadline_ns, struct err *err)
{
	autostrbuf struct strbuf body = {};

	strbuf_puts(&body, "{\"sync\":true}");
	return command(fd, "/v1/freeze", &body, deadline_ns, err);
}

int agent_thaw(int fd, uint64_t deadline_ns, struct err *err)
{
	autostrbuf struct strbuf body = {};

	strbuf_printf(&body, "{\"wall_ns\":%llu}", (unsigned long long)wall_ns());
	return command(fd, "/v1/thaw", &body, deadline_ns, err);
}

/* ---- a new identity ---- */

static void random_bytes(void *bytes, size_t len)
{
	while (getrandom(bytes, len, 0) != (ssize_t)len)
		;
}

static void random_hex(char ret[NONCE_HEX + 1])
{
	unsigned char id[ID_BYTES];

	random_bytes(id, sizeof(id));
	for (unsigned i = 0; i < ID_BYTES; i++)
		snprintf(ret + 2UL * i, 3, "%02x", id[i]);
}

/* A random UUID, RFC 9562, version 4. */
static void random_uuid(char ret[37])
{
	char hex[NONCE_HEX + 1];

	random_hex(hex);
	hex[12] = '4';
	hex[16] = "89ab"[hex[16] & 3];
	snprintf(ret, 37, "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16, hex + 20);
}

static void add_entropy(struct strbuf *out)
{
	unsigned char bits[ENTROPY_BYTES];

	random_bytes(bits, sizeof(bits));
	strbuf_puts(out, ",\"entropy\":\"");
	base64_add(out, bits, sizeof(bits));
	strbuf_putc(out, '"');
	explicit_bzero(bits, sizeof(bits));
}

int identity_send(int fd, const char *hostname, const struct identity_wish *w, bool thaw, uint64_t deadline_ns,
		  char ret_nonce[NONCE_HEX + 1], struct err *err)
{
	char generation[37], boot_id[37], machine_id[NONCE_HEX + 1];
	struct strbuf body = {};

	random_hex(ret_nonce);
	random_uuid(generation);
	random_uuid(boot_id);
	random_hex(machine_id);
	strbuf_printf(&body, "{\"nonce\":\"%s\",\"generation\":\"%s\",\"boot_id\":\"%s\"", ret_nonce, generation,
		      boot_id);
	add_entropy(&body);
	json_member(&body, "hostname", w->hostname ? w->hostname : hostname);
	json_member(&body, "machine_id", w->machine_id ? w->machine_id : machine_id);
	strbuf_puts(&body, ",\"ssh_host_keys\":\"new\"");
	if (w->default_user)
		json_member(&body, "default_user", w->default_user);
	if (w->env)
		strbuf_printf(&body, ",\"env\":%s", w->env);
	if (w->files)
		strbuf_printf(&body, ",\"files\":%s", w->files);
	strbuf_printf(&body, ",\"thaw\":%s,\"wall_ns\":%llu}", thaw ? "true" : "false", (unsigned long long)wall_ns());
	const struct agent_request rq = {
		.method = "POST", .target = "/v1/identity", .body = &body, .deadline_ns = deadline_ns
	};
	int r = agent_send(fd, &rq, err);
	wipe_text(body.text);
	strbuf_done(&body);
	return r;
}

int identity_await(int fd, const char *nonce, uint64_t deadline_ns, struct err *err)
{
	autoanswer struct agent_answer a = {};

	if (agent_receive(fd, deadline_ns, &a, err) < 0 || agent_want(&a, 200, "identity", err) < 0)
		return err_wrap(err, "identity");
	const struct json_node *echo = json_get(a.body, "nonce");
	if (!echo || echo->type != JSON_STRING || strcmp(echo->str, nonce) != 0)
		return fail(err, E_AGENT,
			    "identity: the guest's agent acknowledges another identity than it was given");
	return 0;
}
