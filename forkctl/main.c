// SPDX-License-Identifier: Apache-2.0
/* forkctl: the command line client of forkd. The table of its commands, and the way from argv to one of them. */
#include "forkctl/forkctl.h"

#include <curl/curl.h>
#include <errno.h>
#include <string.h>

#include "common/version.h"
#include "forkctl/command.h"
#include "forkctl/terminal.h"

#define EXEC_HELP                                                                                                           \
	"The clone's guest needs forkd-agent. Output comes as it is written, byte for byte; without -i the command's\n"     \
	"stdin is /dev/null. The first SIGINT, SIGTERM, SIGHUP or SIGQUIT reaches the command as SIGTERM, the second one\n" \
	"as SIGKILL. With -t that is for the terminal's keys to do.\n\n"                                                    \
	"Exit status: the command's; 128 + N when signal N has ended it; 124 when the time of --timeout is over;\n"         \
	"127 when there is no such command, 126 when it cannot be started; 125 when forkctl, the daemon or the agent\n"     \
	"failed, wrong usage included."

static const struct verb verbs[] = {
	{ "template import", "NAME DIR", "Make a template of a snapshot directory",
	  "DIR holds config.json, "
	  "memory-ranges and state.json, of forkd-vmm or of Cloud Hypervisor. It is copied.\n\n"
	  "  forkctl template import web /snapshots/web",
	  template_build_options, 2, 2, template_import },
	{ "template create", "NAME", "Boot a virtual machine, wait until it is ready, make a template of it",
	  "  forkctl template create web --vm vm.json --ready-serial 'login:' --timeout 60", template_create_options, 1,
	  1, template_create },
	{ "template list", "", "List the templates", NULL, NULL, 0, 0, template_list },
	{ "template show", "NAME", "Show a template", NULL, NULL, 1, 1, template_show },
	{ "template delete", "NAME…", "Delete templates that nothing uses", NULL, NULL, 1, ARGS_WORDS_MAX,
	  template_delete },
	{ "template verify", "NAME", "Read a template and compare it with its digests", NULL, NULL, 1, 1,
	  template_verify },
	{ "template flatten", "NAME", "Make the disks of a template stand alone, without its parents' images", NULL,
	  NULL, 1, 1, template_flatten },
	{ "clone", "TEMPLATE", "Make clones of a template and let them run",
	  "\"{n}\" in a net, a disk, a label or the overrides stands for the number of the clone, from 0 on:\n\n"
	  "  forkctl clone web -n 3 --net net0=tap{n} --disk disk0=/images/web{n}.img --label job=7",
	  clone_create_options, 1, 1, clone_create },
	{ "list", "", "List the clones", NULL, clone_list_options, 0, 0, clone_list },
	{ "show", "ID", "Show a clone, its times and what it uses", NULL, NULL, 1, 1, clone_show },
	{ "delete", "ID…", "Delete clones", NULL, clone_delete_options, 0, ARGS_WORDS_MAX, clone_delete },
	{ "pause", "ID", "Pause a clone", NULL, NULL, 1, 1, clone_pause },
	{ "resume", "ID", "Let a paused clone run on", NULL, NULL, 1, 1, clone_resume },
	{ "label", "ID [KEY=VALUE…]", "Set labels of a clone, or its time to live", "KEY= takes a label away.",
	  clone_label_options, 1, ARGS_WORDS_MAX, clone_label },
	{ "wait", "ID", "Wait until a clone is in a state", NULL, clone_wait_options, 1, 1, clone_wait },
	{ "snapshot", "ID NAME", "Make a template of a clone, which runs on",
	  "Its disks are part of it, but for those that it was given by a path: such a clone must be paused, and the disk\n"
	  "copied before it is resumed.",
	  NULL, 2, 2, clone_snapshot },
	{ "logs", "ID", "Print what a clone's serial port printed", NULL, console_logs_options, 1, 1, console_logs },
	{ "exec", "ID [--] COMMAND [ARG…]", "Run a command in a clone", EXEC_HELP, exec_options, 2, ARGS_COMMAND,
	  exec_in_clone },
	{ "run", "TEMPLATE [--] COMMAND [ARG…]", "Make a clone, run a command in it, and delete the clone",
	  "The clone is deleted whatever ends the command, SIGINT and SIGTERM too.\n\n"
	  "  forkctl run web -- sh -c 'make && make check'\n\n" EXEC_HELP,
	  run_options, 2, ARGS_COMMAND, run_in_clone },
	{ "cp", "SRC DST", "Copy files and directories into a clone and out of it",
	  "One of the two is ID:PATH; a relative PATH is in the user's home. What is copied to an existing directory keeps\n"
	  "its name there; DIR/. stands for what is in DIR. \"-\" is stdin or stdout: the bytes of a file, or an archive\n"
	  "of tar where the other side is a directory. Directories need tar in the guest. A file is whole or not there.\n\n"
	  "  forkctl cp src c-1:/root\n  forkctl cp c-1:/var/log/messages .\n  forkctl cp c-1:/etc - | tar -tf -",
	  cp_options, 2, 2, copy_files },
	{ "forward", "ID [ADDR:]PORT:GUESTPORT…", "Let ports of this host lead to ports of a clone's guest",
	  "Listens at 127.0.0.1 when no address is given, at a port of the kernel's choice when PORT is 0, and says where.\n"
	  "GUESTPORT is one of the guest's loopback. Ends by SIGINT or SIGTERM.\n\n"
	  "  forkctl forward c-1 2222:22 8080:80 [::1]:5432:5432",
	  NULL, 2, ARGS_WORDS_MAX, forward_ports },
	{ "console", "ID", "Attach the terminal to a clone's serial port", "Ctrl-] leaves.", console_attach_options, 1,
	  1, console_attach },
	{ "events", "", "Print the events that the daemon still has, or follow them", NULL, daemon_events_options, 0, 0,
	  daemon_events },
	{ "metrics", "", "Print the daemon's metrics", NULL, NULL, 0, 0, daemon_metrics },
	{ "version", "", "Print the versions of this program and of the daemon", NULL, NULL, 0, 0, daemon_version },
	{ "health", "", "Ask the daemon whether it is well", NULL, NULL, 0, 0, daemon_health },
	{ "kernel fetch", "", "Get a kernel for guests, and its modules, by apt-get; works without the daemon",
	  "Nothing is installed: the distribution's package is downloaded and unpacked below --to.\n\n"
	  "  forkd-image --initramfs initrd --kernel-modules \"$(forkctl kernel fetch --json | jq -r .modules)\" --agent forkd-agent",
	  kernel_fetch_options, 0, 0, kernel_fetch },
	{ "doctor", "", "Say what this host can do and what is missing; works without the daemon", NULL, doctor_options,
	  0, 0, doctor },
	{ NULL, NULL, NULL, NULL, NULL, 0, 0, NULL },
};

static void free_client(struct client **c)
{
	client_free(*c);
}

/* stdio forgets why a line was not written, and takes the next one. */
static ssize_t write_stdout(void *num, const char *bytes, size_t len)
{
	if (write_all(STDOUT_FILENO, bytes, len))
		return (ssize_t)len;
	*(int *)num = errno;
	return 0;
}

static int run_command(const struct args *args)
{
	struct client *client __attribute__((cleanup(free_client))) = NULL;
	int status = client_new(args, &client);

	if (status != EXIT_FINE)
		return args_runs_command(args) ? COMMAND_FAILED : status;
	return args->verb->run(&(struct cli){ args, client, args_option(args, "json") });
}

int main(int argc, char **argv)
{
	static struct args args; /* too large for a stack */
	static int num;          /* why stdout failed; 0: it did not */
	int status = EXIT_FINE;

	FILE *out = fopencookie(&num, "w", (cookie_io_functions_t){ .write = write_stdout });
	if (out)
		stdout = out;
	setvbuf(stdout, NULL, _IOLBF, 0); /* in order with what stderr gets */
	if (!args_parse(&args, verbs, argc, argv))
		return args_runs_command(&args) ? COMMAND_FAILED : EXIT_USAGE;
	if (args_option(&args, "version"))
		printf("forkctl %s\n", FORKD_VERSION);
	else if (args_option(&args, "help") && args.verb)
		help_verb(args.verb);
	else if (args_option(&args, "help"))
		help_all(verbs);
	else
		status = run_command(&args);
	fflush(stdout);
	if (num != 0 && num != EPIPE) {
		fprintf(stderr, "forkctl: cannot write: %s\n", strerror(num));
		return EXIT_FAILED;
	}
	return status;
}
