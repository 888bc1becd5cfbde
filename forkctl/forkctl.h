// SPDX-License-Identifier: Apache-2.0
/*
 * forkctl's commands: each takes what the command line gave, asks the daemon, prints, and returns the exit status.
 * Whoever finds an error says it on stderr.
 */
#ifndef FORKCTL_FORKCTL_H
#define FORKCTL_FORKCTL_H

#include "forkctl/args.h"
#include "forkctl/client.h"

struct cli {
	const struct args *args;
	struct client *client; /* NULL for a verb that is offline */
	bool json;
};

/* template.c */
int template_import(struct cli *cli);
int template_create(struct cli *cli);
int template_list(struct cli *cli);
int template_show(struct cli *cli);
int template_delete(struct cli *cli);
int template_verify(struct cli *cli);
int template_flatten(struct cli *cli);
extern const struct option_row template_build_options[], template_create_options[];

/* clone.c: making clones */
int clone_create(struct cli *cli);
extern const struct option_row clone_create_options[];
#define CLONE_OPTION_ROWS                                                                                              \
	{ "net", "ID=TAP", "the tap of this net", 0, true }, { "disk", "ID=PATH", "the image of this disk", 0, true }, \
		{ "overrides", "JSON|@FILE", "an object: what else differs from the template's config.json", 0,        \
		  false },                                                                                             \
		{ "label", "KEY=VALUE", "a label", 0, true },                                                          \
		{ "ttl", "S", "delete it after so many seconds", 0, false },                                           \
		{ "wait", "PHASE", "answer when resumed, or when ready (its agent answered)", 0, false },              \
		{ "mode", "MODE", "memory: copyonwrite (default), copy or ondemand", 0, false },                       \
	{                                                                                                              \
		"clock", "CLOCK", "the guest's clocks: advance (default) by the template's age, or continue", 0, false \
	}
/* The request for `count` clones with CLONE_OPTION_ROWS. False: a usage error, said on stderr. */
MUST_CHECK bool clone_body(const struct args *args, uint64_t count, bool paused, struct strbuf *body);

/* clones.c: clones that are there */
int clone_list(struct cli *cli);
int clone_show(struct cli *cli);
int clone_delete(struct cli *cli);
int clone_pause(struct cli *cli);
int clone_resume(struct cli *cli);
int clone_label(struct cli *cli);
int clone_wait(struct cli *cli);
int clone_snapshot(struct cli *cli);
extern const struct option_row clone_list_options[], clone_delete_options[], clone_label_options[],
	clone_wait_options[];

/* daemon.c */
int daemon_events(struct cli *cli);
int daemon_metrics(struct cli *cli);
int daemon_version(struct cli *cli);
int daemon_health(struct cli *cli);
extern const struct option_row daemon_events_options[];

/* console.c */
int console_logs(struct cli *cli);
int console_attach(struct cli *cli);
extern const struct option_row console_logs_options[], console_attach_options[];

/* exec.c: commands in a guest */
int exec_in_clone(struct cli *cli);
int run_in_clone(struct cli *cli);
extern const struct option_row exec_options[], run_options[];

/* cp.c: files and directories between this host and a guest */
int copy_files(struct cli *cli);
extern const struct option_row cp_options[];

/* forward.c: ports of this host that lead into a guest */
int forward_ports(struct cli *cli);

/* kernel.c */
int kernel_fetch(struct cli *cli);
extern const struct option_row kernel_fetch_options[];

/* doctor.c */
int doctor(struct cli *cli);
extern const struct option_row doctor_options[];

#endif
