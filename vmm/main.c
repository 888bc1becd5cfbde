// SPDX-License-Identifier: Apache-2.0
/* forkd-vmm: one process, one virtual machine. From the command line to the event loop and out again. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "common/log.h"
#include "common/version.h"
#include "vmm/api/api.h"
#include "vmm/api/machine_state.h"
#include "vmm/clone/control.h"
#include "vmm/config/cmdline.h"
#include "vmm/core/event_monitor.h"
#include "vmm/core/host_open.h"

static void free_vmm(struct vmm **vmm)
{
	vmm_free(*vmm);
}

static void free_api(struct api_server **api)
{
	api_server_free(*api);
}

static int open_output(const char *path, const char *what, struct err *err)
{
	int fd = host_open_output(path, O_TRUNC, 0600);

	return fd < 0 ? err_sys(err, ERR_INTERNAL, "open the %s '%s'", what, path) : fd;
}

/* Descriptors of the command line are ours alone: not for any program that we might start. */
static int own_fd(int fd, struct err *err)
{
	if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, ERR_INVALID, "descriptor %d of the command line", fd);
	return 0;
}

static int own_fds(const struct cmdline *cl, struct err *err)
{
	for (uint32_t i = 0; i < cl->restore.n_net_fds; i++)
		for (uint32_t k = 0; k < cl->restore.net_fds[i].n_fds; k++)
			if (own_fd(cl->restore.net_fds[i].fds[k], err) < 0)
				return err->num;
	for (uint32_t i = 0; i < cl->config.n_net; i++)
		for (uint32_t k = 0; k < cl->config.net[i].n_fds; k++)
			if (own_fd(cl->config.net[i].fds[k], err) < 0)
				return err->num;
	if (cl->api_socket.has_fd && own_fd(cl->api_socket.fd, err) < 0)
		return err->num;
	if ((cl->template_host.has_fd && own_fd(cl->template_host.fd, err) < 0) ||
	    (cl->control.has_fd && own_fd(cl->control.fd, err) < 0))
		return err->num;
	return cl->event_monitor.has_fd ? own_fd(cl->event_monitor.fd, err) : 0;
}

/* Log and event monitor: what everything after this reports to. */
static int reports_init(const struct cmdline *cl, struct err *err)
{
	static const enum log_level levels[] = { LOG_WARN, LOG_INFO, LOG_DEBUG };
	unsigned v = cl->verbosity < ARRAY_LEN(levels) ? cl->verbosity : ARRAY_LEN(levels) - 1;
	int log_fd = STDERR_FILENO, event_fd = cl->event_monitor.has_fd ? cl->event_monitor.fd : -1;

	if (cl->log_file)
		log_fd = open_output(cl->log_file, "log file", err);
	if (log_fd < 0)
		return err->num;
	log_init("forkd-vmm", levels[v], log_fd);
	if (cl->event_monitor.path)
		event_fd = open_output(cl->event_monitor.path, "event monitor", err);
	if (event_fd < 0 && cl->event_monitor.path)
		return err->num;
	event_monitor_init(event_fd);
	return 0;
}

static int start_vm(struct vmm *vmm, struct cmdline *cl, struct err *err)
{
	if (cl->has_restore && vmm_restore(vmm, &cl->restore, err) < 0) {
		err_wrap(err, "The VM could not be restored");
		return err_wrap(err, "Error restoring VM");
	}
	if (cl->has_vm && (vmm_create(vmm, &cl->config, err) < 0 || vmm_boot(vmm, err) < 0)) {
		err_wrap(err, "The VM could not boot");
		return err_wrap(err, "Error booting VM");
	}
	return 0;
}

/* The whole life of the process; the exit code, or < 0 with the error. What is declared last is released first. */
static int run_vmm(struct cmdline *cl, struct err *err)
{
	if (own_fds(cl, err) < 0 || reports_init(cl, err) < 0)
		return err->num;
	__attribute__((cleanup(loop_done))) struct loop loop = { .epoll_fd = -1 };
	if (loop_init(&loop, err) < 0)
		return err->num;
	__attribute__((cleanup(loop_signals_done))) struct loop_signals signals = { .source.fd = -1 };
	if (loop_signals_init(&signals, &loop, err) < 0)
		return err->num;
	event_emit("vmm", "starting", NULL, NULL);
	__attribute__((cleanup(free_vmm))) struct vmm *vmm = vmm_new(&loop, err);
	if (!vmm)
		return err->num;
	__attribute__((cleanup(free_api))) struct api_server *api = NULL;
	if (cl->api_socket.path || cl->api_socket.has_fd) {
		api = api_server_new(&loop, vmm, cl->api_socket.path, cl->api_socket.has_fd ? cl->api_socket.fd : -1,
				     err);
		if (!api)
			return err_wrap(err, "Error starting the API server");
	}
	if (start_vm(vmm, cl, err) < 0)
		return err->num;
	int exit_code = loop_run(&loop);
	event_emit("vmm", "shutdown", NULL, NULL);
	return exit_code;
}

/* A VM process of forkd: made here, or forked by the template host. */
static int run_owned(struct cmdline *cl, struct err *err)
{
	struct template tmpl;
	struct clone_start start = { .control_fd = cl->control.fd, .wait_fd = -1, .report_fd = -1 };
	int r = 1;

	if (own_fds(cl, err) < 0 || reports_init(cl, err) < 0)
		return err->num;
	if (cl->template_host.has_fd)
		r = template_serve(cl->template_host.fd, &tmpl, &start, err);
	else
		start.id = strdup(cl->control_id ? cl->control_id : "vm");
	if (r == 1)
		r = clone_run(&start, err);
	if (cl->template_host.has_fd)
		template_done(&tmpl);
	free(start.id);
	return r;
}

/* Cloud Hypervisor's shape: the outermost link first. */
static void print_chain(const struct err *err)
{
	unsigned level = 0;

	fputs("Error: forkd-vmm exited with the following chain of errors:\n", stderr);
	for (const char *link = err->msg; link;) {
		int len = (int)strcspn(link, "\n");
		fprintf(stderr, "  %u: %.*s\n", level++, len, link);
		link = link[len] ? link + len + 1 : NULL;
	}
}

int main(int argc, char **argv)
{
	__attribute__((cleanup(cmdline_free))) struct cmdline cl = {};
	struct err err = {};

	umask(077);
	if (argc <= 1) {
		cmdline_help(stderr);
		return EXIT_USAGE;
	}
	if (cmdline_parse(argc, argv, &cl, &err) < 0) {
		if (cl.exit_code == EXIT_USAGE)
			fprintf(stderr, "error: %s\n\nFor more information, try '--help'.\n", err.msg);
		else
			print_chain(&err);
		return cl.exit_code;
	}
	if (cl.action == CMDLINE_HELP)
		cmdline_help(stdout);
	if (cl.action == CMDLINE_VERSION)
		puts("forkd-vmm v" FORKD_VERSION);
	if (cl.action != CMDLINE_RUN)
		return 0;
	bool owned = cl.template_host.has_fd || cl.control.has_fd;
	int exit_code = owned ? run_owned(&cl, &err) : run_vmm(&cl, &err);
	if (exit_code < 0) {
		print_chain(&err);
		return EXIT_FAILURE;
	}
	return exit_code;
}
