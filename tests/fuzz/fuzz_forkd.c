// SPDX-License-Identifier: Apache-2.0
/*
 * What forkd and a VM process read besides snapshots: bodies of requests, the control protocol, the store's manifest, a clone's
 * record, and what a guest's agent says of a command. The input is an object whose only member names the reader; its value is what is
 * read. What is no JSON goes to all that read text.
 */
#include "tests/fuzz/fuzz.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/ctl.h"
#include "common/frames.h"
#include "forkd/access/policy.h"
#include "forkd/agent/exec.h"
#include "forkd/body.h"
#include "forkd/clone/clone_request.h"
#include "forkd/template/vm_config.h"
#include "store/store_internal.h"
#include "vmm/clone/config_override.h"
#include "vmm/clone/control_fds.h"

#define IN_CORPUS "/srv/vm" /* stands for host.path */

static struct {
	char path[256];
	int dir, pair[2];
	struct policy *policy;
} host;

/* Nobody's network is touched, whatever taps a request names. */
int ioctl(int fd, unsigned long request, ...)
{
	(void)fd;
	(void)request;
	return 0;
}

static void put_file(const char *name, const char *text, size_t len)
{
	autoclose int fd = openat(host.dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	must(fd >= 0 && write(fd, text, len) == (ssize_t)len, "no space for files");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const char *tmp = getenv("TMPDIR");
	char *root = host.path;
	struct err err = {};

	(void)argc;
	(void)argv;
	snprintf(host.path, sizeof(host.path), "%s/forkd-fuzz-XXXXXX", tmp ? tmp : "/tmp");
	must(mkdtemp(host.path) != NULL, "no directory");
	host.dir = open(host.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	put_file("kernel", "k", 1);
	put_file("disk.img", "d", 1);
	must(policy_new(&root, 1, &host.policy, &err) == 0, "no policy");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, host.pair) == 0, "no socketpair");
	return 0;
}

/* ---- text ---- */

static bool manifest(const char *text, size_t len)
{
	struct manifest m;
	struct err err = {};

	put_file("manifest.json", text, len);
	if (manifest_read(host.dir, "t", &m, &err) < 0)
		return false;
	fields_free(manifest_fields, &m);
	return true;
}

static bool record(const char *text, size_t len)
{
	struct record r = {};
	struct err err = {};
	bool committed;

	put_file("clone.json", text, len);
	bool taken = record_load(&r, host.dir, &committed, &err) == 0;
	record_free(&r);
	return taken;
}

/* A packet with that many descriptors; false: it did not come. */
static bool packet(const char *text, size_t len, uint32_t n_fds, struct ctl_packet *p)
{
	struct strbuf out = { .text = (char *)(uintptr_t)text, .len = len };
	int fds[SOCK_FDS_MAX];
	struct err err = {};

	for (uint32_t i = 0; i < n_fds; i++)
		fds[i] = host.dir;
	return len > 0 && ctl_send(host.pair[0], &out, fds, n_fds, &err) == 0 && ctl_recv(host.pair[1], p, &err) == 1;
}

static bool reply(const char *text, size_t len)
{
	static const struct {
		const struct field *rows;
		size_t size;
	} kinds[] = {
		{ ctl_template_fields, sizeof(struct ctl_template) },
		{ ctl_status_fields, sizeof(struct ctl_status) },
		{ ctl_exiting_fields, sizeof(struct ctl_exiting) },
		{ ctl_stats_fields, sizeof(struct ctl_stats) },
	};
	autoctl struct ctl_packet p = {};
	bool taken = false;

	if (!packet(text, len, 0, &p))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		autofree void *obj = malloc(kinds[i].size);
		struct err err = {};
		fields_init(kinds[i].rows, obj);
		taken |= ctl_parse_reply(&p, kinds[i].rows, obj, &err) == 0;
		fields_free(kinds[i].rows, obj);
	}
	return taken;
}

/* ---- what a VM process is told (vmm/clone/control.c) ---- */

static bool take_fds(struct vm_config *c, struct ctl_packet *p, const struct ctl_fd *fds, uint32_t n)
{
	struct err err = {};
	int api_fd = -1;

	bool taken = clone_take_fds(c, p, fds, n, &api_fd, &err) == 0;
	vm_config_close_fds(c);
	if (api_fd >= 0)
		close(api_fd);
	return taken;
}

static bool restore(const struct json_node *node, struct ctl_packet *p)
{
	const struct json_node *config = json_get(node, "config"),
			       *overrides = json_get(&p->json.nodes[0], "overrides");
	autovmconfig struct vm_config c;
	struct ctl_restore rq;
	struct err err = {};

	vm_config_init(&c);
	fields_init(ctl_restore_fields, &rq);
	bool taken = config && fields_load(vm_config_fields, &c, config, "config.json", &err) == 0 &&
		     vm_config_check(&c, &err) == 0 && (!overrides || vm_config_override(&c, overrides, &err) == 0) &&
		     fields_load(ctl_restore_fields, &rq, &p->json.nodes[0], "restore", &err) == 0 &&
		     take_fds(&c, p, rq.fds, rq.n_fds);
	fields_free(ctl_restore_fields, &rq);
	return taken;
}

static bool boot(struct ctl_packet *p)
{
	const struct json_node *config = json_get(&p->json.nodes[0], "config");
	autovmconfig struct vm_config c;
	struct ctl_boot rq;
	struct err err = {};

	vm_config_init(&c);
	fields_init(ctl_boot_fields, &rq);
	bool taken = config && fields_check_known(vm_config_fields, config, "vm", &err) == 0 &&
		     fields_load(vm_config_fields, &c, config, "vm", &err) == 0 && vm_config_check(&c, &err) == 0 &&
		     fields_load(ctl_boot_fields, &rq, &p->json.nodes[0], "boot", &err) == 0 &&
		     take_fds(&c, p, rq.fds, rq.n_fds);
	fields_free(ctl_boot_fields, &rq);
	return taken;
}

/* {"packet": …, "config": …}: with as many descriptors as the packet lists. */
static bool request(const struct json_node *node)
{
	const struct json_node *value = json_get(node, "packet"), *fds = json_get(value, "fds");
	autoctl struct ctl_packet p = {};
	autostrbuf struct strbuf text = {};

	if (!value)
		return false;
	json_text(value, &text);
	if (!packet(text.text, text.len, fds && fds->count <= SOCK_FDS_MAX ? fds->count : 0, &p))
		return false;
	return json_get(&p.json.nodes[0], "config") ? boot(&p) : restore(node, &p);
}

/* ---- bodies of requests ---- */

static bool clones(const struct json_node *node)
{
	const struct json_node *template = json_get(node, "template"), *fds = json_get(node, "fds");
	autoclonerequest struct clone_request rq = {};
	struct clone_plan *plans = NULL;
	struct template_host t = {};
	struct err err = {};

	fields_init(ctl_template_fields, &t.info);
	bool taken = template && fields_load(ctl_template_fields, &t.info, template, "template", &err) == 0 &&
		     clone_request_load(json_get(node, "body"), &rq, &err) == 0 &&
		     clone_plans(&rq, &t, fds ? (uint32_t)fds->num : 0, NULL, &plans, &err) == 0;
	if (taken)
		plans_free(plans, rq.count);
	fields_free(ctl_template_fields, &t.info);
	return taken;
}

/* With the corpus' paths below the one root that the caller may name. */
static bool vm(const struct json_node *node)
{
	const struct caller caller = { .local = true, .uid = 1000, .gid = 1000 };
	struct forkd d = { .policy = host.policy };
	const struct place place = { .d = &d, .caller = &caller, .fd = -1 };
	autostrbuf struct strbuf text = {}, moved = {};
	autojson struct json json = {};
	struct vm_needs needs;
	struct err err = {};

	json_text(node, &text);
	for (const char *p = text.text; *p;) {
		const char *at = strstr(p, IN_CORPUS);
		strbuf_add(&moved, p, at ? (size_t)(at - p) : strlen(p));
		strbuf_puts(&moved, at ? host.path : "");
		p = at ? at + strlen(IN_CORPUS) : "";
	}
	if (json_parse(&json, moved.text, moved.len, &err) < 0)
		return false;
	const struct vm_wish wish = { "c-abcdefghijkl", moved.len % 2, moved.len / 2 % 2 };
	bool taken = vm_needs_load(&json.nodes[0], &place, &wish, &needs, &err) == 0;
	vm_needs_done(&needs);
	return taken;
}

/* ---- what an agent says of a command (forkd/agent/exec.c) ---- */

/* As the answer that the command's connection has until it ends. */
static bool answered(const struct exec_wish *wish, const char *text, size_t len)
{
	static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
	autoexecresult struct exec_result result = {};
	struct err err = {};
	int fd[2], room = (int)len + 4096;

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd) == 0, "no socketpair");
	setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	bool sent = send(fd[1], head, sizeof(head) - 1, 0) > 0 &&
		    (len == 0 || send(fd[1], text, len, 0) == (ssize_t)len);
	close(fd[1]);
	const struct exec_call call = { .fd = fd[0], .input_fd = -1, .wish = wish };
	bool ended = sent && exec_run(&call, &result, &err) == 0;
	must(ended || !sent || err.msg[0], "an error without a message");
	must(result.out.bytes.len <= wish->max_output && result.err.bytes.len <= wish->max_output,
	     "more output than was asked for");
	close(fd[0]);
	return ended;
}

static bool stream(const char *text, size_t len)
{
	static char start[] = "{}";
	const struct exec_wish wish = { .start = start, .timeout_s = 1, .max_output = 100 };

	return answered(&wish, text, len);
}

/* {"wish": the body of a request, "says": [a message each]}; the last one is the stream's. */
static bool exec(const struct json_node *node)
{
	const struct json_node *wanted = json_get(node, "wish"), *says = json_get(node, "says");
	autoexecwish struct exec_wish wish = {};
	autostrbuf struct strbuf bytes = {};
	struct err err = {};

	if (!wanted || !says || says->type != JSON_ARRAY || exec_wish_load(wanted, NULL, &wish, &err) < 0)
		return false;
	uint32_t left = says->count;
	for (json_each(message, says)) {
		autostrbuf struct strbuf text = {};
		unsigned char head[FRAME_HEAD];
		json_text(message, &text);
		frame_head(head, --left == 0 ? FRAME_END : 0, text.len);
		strbuf_add(&bytes, (const char *)head, sizeof(head));
		strbuf_add(&bytes, text.text, text.len);
	}
	wish.has_input = false; /* there is no second connection */
	return answered(&wish, bytes.text, bytes.len);
}

/* ---- */

/* node NULL: all readers of text. true: the one that was named took it. */
static bool run(const struct json_node *node, const char *text, size_t len)
{
	bool taken = false;
	static const struct {
		const char *name;
		bool (*text)(const char *text, size_t len);
		bool (*value)(const struct json_node *node);
	} readers[] = {
		{ "manifest", manifest, NULL }, { "record", record, NULL }, { "reply", reply, NULL },
		{ "request", NULL, request },   { "clones", NULL, clones }, { "vm", NULL, vm },
		{ "exec", NULL, exec },         { "stream", stream, NULL },
	};

	for (size_t i = 0; i < ARRAY_LEN(readers); i++) {
		if (node && (!node->key || strcmp(readers[i].name, node->key) != 0))
			continue;
		if (readers[i].text)
			taken |= readers[i].text(text, len);
		else if (node)
			taken |= readers[i].value(node);
	}
	return taken && node;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	autojson struct json json = {};
	autofree char *copy = exact(data, size);
	autostrbuf struct strbuf text = {};
	struct err err = {};
	int fd = next_fd();

	if (json_parse(&json, copy, size, &err) < 0 || json.nodes[0].type != JSON_OBJECT || json.nodes[0].count != 1) {
		run(NULL, (const char *)data, size);
	} else {
		json_text(&json.nodes[1], &text);
		if (run(&json.nodes[1], text.text, text.len))
			document_is_good(data, size);
	}
	must(next_fd() == fd, "a descriptor is left open");
	return 0;
}
