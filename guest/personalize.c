// SPDX-License-Identifier: Apache-2.0
/* The table of the steps, and the walk through it. */
#include "guest/personalize.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "common/clock.h"
#include "common/field.h"
#include "common/log.h"
#include "guest/host_ids.h"
#include "guest/kernel_state.h"
#include "guest/owner.h"
#include "guest/private.h"
#include "guest/put_file.h"
#include "guest/ssh_keys.h"

/* A step returns 0: done; 1: it goes on, and calls go_on() at its end; negative: it has failed. */
enum { STEP_DONE, STEP_GOES_ON };

static struct private *private_of(const struct personalize *z)
{
	return z->ex->agent->private;
}

static void go_on(struct personalize *z, const struct err *err);

static int step_reseed(struct personalize *z, struct err *err)
{
	return kernel_reseed(z->p.entropy, z->p.n_entropy, err);
}

static int step_clock(struct personalize *z, struct err *err)
{
	return z->p.wall_ns ? wall_clock_set(z->p.wall_ns, err) : 0;
}

/* The signals wait for the thaw: no process runs between them and its other news. */
static int step_generation(struct personalize *z, struct err *err)
{
	(void)err;
	generation_set(&private_of(z)->generation, z->p.id);
	generation_notify(&private_of(z)->generation);
	return 0;
}

static int step_hostname(struct personalize *z, struct err *err)
{
	return z->p.hostname ? hostname_set(private_of(z)->root_fd, z->p.hostname, err) : 0;
}

static int step_machine_id(struct personalize *z, struct err *err)
{
	return machine_id_set(private_of(z)->root_fd, z->p.machine_id, err);
}

static int step_boot_id(struct personalize *z, struct err *err)
{
	return boot_id_set(private_of(z)->root_fd, z->p.boot_id, err);
}

static void on_keygen(struct command *command)
{
	struct personalize *z = container_of(command, struct personalize, keygen);
	struct err err = {};

	if (command_result(command, "ssh-keygen", &err) == 0 && ssh_host_keys_take(private_of(z)->root_fd, &err) < 0)
		err_wrap(&err, "ssh-keygen");
	go_on(z, &err);
}

static int step_ssh_host_keys(struct personalize *z, struct err *err)
{
	const char *const argv[] = { "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", SSH_NEW_KEY, NULL };
	const struct private *private = private_of(z);
	const struct command_spec spec = { .dir_fd = private->root_fd,
					   .argv = argv,
					   .env = z->hook_env,
					   .deadline_ns = monotonic_ns() + HOOKS_DEADLINE_S * 1000000000ULL };

	if (z->p.ssh_host_keys == SSH_KEYS_KEEP || !ssh_has_host_keys(private->root_fd))
		return STEP_DONE;
	unlinkat(private->root_fd, path_below(SSH_NEW_KEY), 0); /* ssh-keygen asks before it overwrites */
	unlinkat(private->root_fd, path_below(SSH_NEW_KEY ".pub"), 0);
	z->keygen.ended = on_keygen;
	return command_start(&z->keygen, &z->ex->agent->loop, &spec, err) < 0 ? err->num : STEP_GOES_ON;
}

static int step_dhcp(struct personalize *z, struct err *err)
{
	return dhcp_identity_drop(private_of(z)->root_fd, err);
}

static int put_resolv_conf(int root_fd, const struct personality *p, struct err *err)
{
	autostrbuf struct strbuf text = {};

	for (uint32_t i = 0; i < p->n_net; i++)
		for (uint32_t n = 0; n < p->net[i].n_dns; n++)
			strbuf_printf(&text, "nameserver %s\n", p->net[i].dns[n]);
	if (text.failed)
		return err_num(err, ERR_INTERNAL, ENOMEM, "/etc/resolv.conf");
	return text.len ? put_text(root_fd, "/etc/resolv.conf", text.text, err) : 0;
}

static int step_net(struct personalize *z, struct err *err)
{
	for (uint32_t i = 0; i < z->p.n_net; i++)
		if (link_apply(&z->p.net[i].change, err) < 0)
			return err->num;
	return put_resolv_conf(private_of(z)->root_fd, &z->p, err);
}

static int step_files(struct personalize *z, struct err *err)
{
	for (uint32_t i = 0; i < z->p.n_files; i++) {
		const struct personality_file *f = &z->p.files[i];
		struct put_file put = { .path = f->path, .bytes = f->content, .len = f->n_content, .mode = f->mode };
		if (f->owner && owner_find(f->owner, &put.uid, &put.gid, err) < 0)
			return err_wrap(err, "'%s'", f->path);
		if (put_file(private_of(z)->root_fd, &put, err) < 0)
			return err->num;
	}
	return 0;
}

static int step_env(struct personalize *z, struct err *err)
{
	struct agent *agent = z->ex->agent;

	if (z->p.default_user) {
		free(agent->default_user);
		agent->default_user = steal_ptr(&z->p.default_user);
	}
	return env_set_all(&agent->env, &z->p.env) < 0 ? err_num(err, ERR_INTERNAL, ENOMEM, "environment") : 0;
}

static void on_hooks(struct hooks *hooks, const struct err *err)
{
	go_on(container_of(hooks, struct personalize, hooks), err);
}

static int run_hooks(struct personalize *z, const char *path, bool frozen, struct err *err)
{
	const struct private *private = private_of(z);
	const struct command_spec spec = { .env = z->hook_env,
					   .user_group = frozen ? NULL : &private->groups,
					   .deadline_ns = monotonic_ns() + HOOKS_DEADLINE_S * 1000000000ULL };

	z->hooks.done = on_hooks;
	int r = hooks_start(&z->hooks, &z->ex->agent->loop, private->root_fd, path, &spec, err);
	return r < 0 ? r : r > 0 ? STEP_DONE : STEP_GOES_ON;
}

static int step_before(struct personalize *z, struct err *err)
{
	return run_hooks(z, HOOKS_BEFORE, true, err);
}

static int step_thaw(struct personalize *z, struct err *err)
{
	struct private *private = private_of(z);

	if (!z->thaw_only)
	private->after_pending = true;
	return z->p.thaw ? groups_thaw(&private->groups, err) : 0;
}

static int step_after(struct personalize *z, struct err *err)
{
	struct private *private = private_of(z);

	if (!z->p.thaw || !private->after_pending)
		return 0;
	private->after_pending = false;
	return run_hooks(z, HOOKS_AFTER, false, err);
}

static const struct step {
	const char *name;
	int (*run)(struct personalize *z, struct err *err);
	bool in_thaw; /* POST /v1/thaw has this step, too */
} steps[] = {
	{ "reseed", step_reseed, false },
	{ "clock", step_clock, true },
	{ "generation", step_generation, false },
	{ "hostname", step_hostname, false },
	{ "machine_id", step_machine_id, false },
	{ "boot_id", step_boot_id, false },
	{ "ssh_host_keys", step_ssh_host_keys, false },
	{ "dhcp", step_dhcp, false },
	{ "net", step_net, false },
	{ "files", step_files, false },
	{ "env", step_env, false },
	{ "before", step_before, false },
	{ "thaw", step_thaw, true },
	{ "after", step_after, true },
};
_Static_assert(ARRAY_LEN(steps) <= PERSONALIZE_STEPS_MAX, "times of all steps");

static void done(struct personalize *z)
{
	personality_done(&z->p);
	z->running = false;
	z->ex = NULL;
}

static void succeed(struct personalize *z)
{
	autostrbuf struct strbuf body = {};
	struct exchange *ex = z->ex;
	const char *comma = "";

	strbuf_putc(&body, '{');
	if (!z->thaw_only)
		strbuf_printf(&body, "\"nonce\":\"%s\",", z->p.nonce);
	strbuf_puts(&body, "\"steps_us\":{");
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		if (z->thaw_only && !steps[i].in_thaw)
			continue;
		strbuf_printf(&body, "%s\"%s\":%u", comma, steps[i].name, z->us[i]);
		comma = ",";
	}
	strbuf_puts(&body, "}}");
	done(z);
	if (body.failed)
		return ex_fail(ex, 500, "no memory for the answer");
	ex_answer(ex, 200, "application/json", body.text, body.len);
}

static void fail(struct personalize *z, const struct err *err)
{
	struct exchange *ex = z->ex;
	char line[ERR_MSG_BYTES];

	err_line(err, line, sizeof(line));
	log_warn("step '%s' has failed: %s", steps[z->step].name, line);
	const char *name = steps[z->step].name;
	done(z);
	ex_fail(ex, 500, "%s: %s", name, line);
}

/* Runs steps until one goes on by itself, one fails, or all are done. */
static void walk(struct personalize *z)
{
	for (; z->step < ARRAY_LEN(steps); z->step++) {
		struct err err = {};
		if (z->thaw_only && !steps[z->step].in_thaw)
			continue;
		z->step_ns = monotonic_ns();
		int r = steps[z->step].run(z, &err);
		if (r < 0)
			return fail(z, &err);
		if (r == STEP_GOES_ON)
			return;
		z->us[z->step] = (uint32_t)((monotonic_ns() - z->step_ns) / 1000);
	}
	succeed(z);
}

static void go_on(struct personalize *z, const struct err *err)
{
	if (err->code != ERR_NONE)
		return fail(z, err);
	z->us[z->step] = (uint32_t)((monotonic_ns() - z->step_ns) / 1000);
	z->step++;
	walk(z);
}

static void on_gone(struct exchange *ex)
{
	struct personalize *z = &ex->agent->private->personalize;

	log_warn("the daemon went away in step '%s'", steps[z->step].name);
	command_kill(&z->keygen);
	hooks_stop(&z->hooks);
	done(z);
}

static void begin(struct exchange *ex, const struct personality *p, bool thaw_only)
{
	struct personalize *z = &ex->agent->private->personalize;

	*z = (struct personalize){ .running = true, .thaw_only = thaw_only, .ex = ex, .p = *p };
	z->hooks.dir_fd = -1;
	snprintf(z->hostname_var, sizeof(z->hostname_var), "FORKD_HOSTNAME=%s", p->hostname ? p->hostname : "");
	snprintf(z->generation_var, sizeof(z->generation_var), "FORKD_GENERATION=%s",
		 p->generation ? p->generation : "");
	z->hook_env[0] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
	z->hook_env[1] = z->hostname_var;
	z->hook_env[2] = z->generation_var;
	ex->on_gone = on_gone;
	ex->ends_with_client = true;
	walk(z);
}

void personalize_begin(struct exchange *ex)
{
	struct personality p = {};
	struct json json = {};
	struct err err = {};
	char line[ERR_MSG_BYTES];

	if (!private_free(ex))
		return;
	int r = json_parse(&json, ex->body, ex->body_len, &err);
	if (r == 0)
		r = personality_load(&p, json.nodes, &err);
	json_done(&json);
	explicit_bzero(ex->body, ex->body_len);
	if (r < 0)
		return ex_fail(ex, private_status(&err), "%s", err_line(&err, line, sizeof(line)));
	begin(ex, &p, false);
}

static const struct field thaw_fields[] = { F(struct personality, wall_ns, .max = INT64_MAX), F_END };

void personalize_thaw(struct exchange *ex)
{
	struct personality p = {};

	if (!private_free(ex) || !private_body(ex, thaw_fields, &p))
		return;
	p.thaw = true;
	begin(ex, &p, true);
}
