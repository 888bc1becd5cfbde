// SPDX-License-Identifier: Apache-2.0
/*
 * Runs inside the lab's guests, whose busybox knows no vsock: each connection to PORT becomes PROGRAM's input and output.
 *
 *   guest_vsock PORT PROGRAM
 */
#include <err.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum { BACKLOG = 16 };

static int listen_on(unsigned port)
{
	struct sockaddr_vm address = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port };
	int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
		err(1, "listen on vsock port %u", port);
	return fd;
}

static void become(const char *program, int fd)
{
	signal(SIGCHLD, SIG_DFL);
	if (dup2(fd, STDIN_FILENO) < 0 || dup2(fd, STDOUT_FILENO) < 0 || dup2(fd, STDERR_FILENO) < 0)
		err(1, "dup2");
	execl(program, program, (char *)NULL);
	err(1, "start %s", program);
}

int main(int argc, char **argv)
{
	if (argc != 3)
		errx(2, "usage: guest_vsock PORT PROGRAM");
	int listener = listen_on((unsigned)strtoul(argv[1], NULL, 10));

	signal(SIGCHLD, SIG_IGN); /* nobody waits for them */
	for (;;) {
		int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED || errno == ECONNRESET))
			continue;
		if (fd < 0)
			err(1, "accept");
		if (fork() == 0)
			become(argv[2], fd);
		close(fd);
	}
}
