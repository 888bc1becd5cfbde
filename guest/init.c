// SPDX-License-Identifier: Apache-2.0
/* The command's life, and the way down. */
#include "guest/init.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>

#include "common/clock.h"
#include "common/log.h"
#include "guest/process/spawn.h"

enum { POLL_NS = 20000000 };

static void power_off(struct timer *t)
{
	(void)t;
	kill(-1, SIGKILL);
	sync();
	if (mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL) < 0)
		log_info("the root file system stays writable: errno %d", errno);
	reboot(RB_POWER_OFF);
	log_error("power off: errno %d", errno);
	_exit(1);
}

/* Every process but the agent and the kernel's own has ended. */
static bool is_alone(void)
{
	return kill(-1, 0) < 0 && errno == ESRCH;
}

static void look_again(struct timer *t)
{
	struct init *init = container_of(t, struct init, shutdown);

	if (is_alone() || monotonic_ns() >= init->give_up_ns)
		return power_off(t);
	loop_timer_set(init->loop, t, monotonic_ns() + POLL_NS);
}

void init_shutdown(struct init *init)
{
	if (init->stopping)
		return;
	init->stopping = true;
	log_info("the system ends");
	kill(-1, SIGTERM);
	init->give_up_ns = monotonic_ns() + INIT_TERM_S * 1000000000ULL;
	init->shutdown.fire = look_again;
	loop_timer_set(init->loop, &init->shutdown, monotonic_ns() + POLL_NS);
}

static void on_command(struct child *child, int status)
{
	struct init *init = container_of(child, struct init, command);

	if (WIFSIGNALED(status))
		log_info("the command was ended by signal %d", WTERMSIG(status));
	else
		log_info("the command has ended with status %d", WEXITSTATUS(status));
	child->pid = 0;
	if (!init->stay)
		init_shutdown(init);
}

static void on_signal(struct loop *loop, int signo)
{
	struct init *init = loop->owner;

	if (init->command.pid && signo != SIGPWR)
		loop_child_signal(&init->command, signo);
	else if (signo != SIGHUP)
		init_shutdown(init);
}

_Noreturn static void command_main(const struct groups *groups, char *const *argv, int report_fd)
{
	loop_child_signals();
	spawn_restore_files();
	setsid();
	ioctl(0, TIOCSCTTY, 0); /* a console that is no terminal has none to give */
	int r = groups_enter_user(groups);
	if (r == 0) {
		execvp(argv[0], argv);
		r = -errno;
	}
	(void)!write(report_fd, &r, sizeof(r));
	_exit(127);
}

int init_start(struct init *init, struct agent *agent, const struct groups *groups, char *const *argv, bool stay,
	       struct err *err)
{
	int ends[2], num = 0;

	*init = (struct init){ .loop = &agent->loop, .stay = stay };
	agent->loop.on_signal = on_signal;
	agent->loop.owner = init;
	if (!argv || !argv[0])
		return 0;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, ERR_INTERNAL, "pipe for '%s'", argv[0]);
	pid_t pid = fork();
	if (pid == 0)
		command_main(groups, argv, ends[1]);
	close(ends[1]);
	autoclose int report = ends[0];
	if (pid < 0)
		return err_sys(err, ERR_INTERNAL, "start '%s'", argv[0]);
	if (read(report, &num, sizeof(num)) == (ssize_t)sizeof(num))
		return err_num(err, ERR_INVALID, -num, "start '%s'", argv[0]);
	init->command = (struct child){ .pid = pid, .ended = on_command };
	loop_child_add(&agent->loop, &init->command);
	return 0;
}
