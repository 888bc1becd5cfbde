// SPDX-License-Identifier: Apache-2.0
/* Opening the listening sockets, and reading the token, the certificate and its key. */
#include "forkd/rest/listen.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { SECRET_MAX = 256 * 1024, TOKEN_MIN = 16, TOKEN_MAX = 4096 };

/* ---- files ---- */

/*
 * Reads a small regular file that has no mode bit of `forbidden`. The caller frees *ret, also on
 * failure.
 */
static int read_secret(const char *option, const char *path, mode_t forbidden, char **ret, struct err *err)
{
	struct stat st;
	autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

	if (fd < 0 || fstat(fd, &st) < 0)
		return err_sys(err, ERR_INVALID, "%s: open '%s'", option, path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_INVALID, "%s: '%s' is no regular file", option, path);
	if (st.st_mode & forbidden)
		return err_set(err, ERR_INVALID, "%s: '%s' has mode %04o: others could use it; run chmod %s", option,
			       path, st.st_mode & 07777, forbidden & 070 ? "600" : "o-rwx");
	if (st.st_size > SECRET_MAX)
		return err_set(err, ERR_INVALID, "%s: '%s' has more than %d bytes", option, path, SECRET_MAX);
	*ret = calloc(1, (size_t)st.st_size + 1);
	if (!*ret)
		return err_num(err, ERR_INTERNAL, ENOMEM, "%s: read '%s'", option, path);
	if (read(fd, *ret, (size_t)st.st_size) < 0)
		return err_sys(err, ERR_INVALID, "%s: read '%s'", option, path);
	return 0;
}

static int read_token(const char *path, char **ret, struct err *err)
{
	autofree char *text = NULL;

	if (read_secret("--token-file", path, 077, &text, err) < 0 || !text)
		return err->num;
	size_t len = strcspn(text, "\r\n");
	if (text[len + strspn(text + len, "\r\n \t")] != '\0')
		return err_set(err, ERR_INVALID, "--token-file: '%s' must have one line", path);
	text[len] = '\0';
	if (len < TOKEN_MIN || len > TOKEN_MAX)
		return err_set(err, ERR_INVALID,
			       "--token-file: the token in '%s' has %zu characters; it must have %d to %d", path, len,
			       TOKEN_MIN, TOKEN_MAX);
	for (const char *p = text; *p; p++)
		if (*p <= ' ' || *p > '~')
			return err_set(err, ERR_INVALID,
				       "--token-file: the token in '%s' must be printable ASCII without blanks", path);
	*ret = steal_ptr(&text);
	return 0;
}

bool http_token_right(const struct http_listen *l, const char *authorization)
{
	static const char scheme[] = "Bearer ";

	if (!l->token || !authorization || strncasecmp(authorization, scheme, strlen(scheme)) != 0)
		return false;
	const char *given = authorization + strlen(scheme);
	size_t len = strlen(l->token), given_len = strlen(given);
	volatile unsigned diff = len != given_len;
	for (size_t i = 0; i < given_len; i++)
		diff |= (unsigned char)(given[i] ^ l->token[i % len]);
	return diff == 0;
}

/* ---- unix socket ---- */

static int group_id(const char *name, gid_t *ret, struct err *err)
{
	char *end;

	if (!name) {
		*ret = getegid();
		return 0;
	}
	unsigned long id = strtoul(name, &end, 10);
	const struct group *group = getgrnam(name); /* getgrnam() is safe: there is no other thread yet */
	if (!group && (end == name || *end || id >= (gid_t)-1))
		return err_set(err, ERR_INVALID, "--socket-group: there is no group '%s'", name);
	*ret = group ? group->gr_gid : (gid_t)id;
	return 0;
}

static void add_where(struct http_listen *l, const char *kind, const char *what)
{
	size_t used = strlen(l->where);

	snprintf(l->where + used, sizeof(l->where) - used, "%s%s%s", used ? " " : "", kind, what);
}

static int listen_local(const struct http_options *opt, struct http_listen *l, struct err *err)
{
	gid_t group = (gid_t)-1;

	if (opt->socket_fd >= 0) {
		struct sockaddr_un addr = {};
		socklen_t len = sizeof(addr) - 1;
		if (sock_listen_fd(opt->socket_fd, &l->local, err) < 0)
			return err_wrap(err, "the inherited socket");
		if (getsockname(l->local.fd, (struct sockaddr *)(void *)&addr, &len) == 0)
			add_where(l, "unix:", addr.sun_path[0] ? addr.sun_path : "(inherited)");
		return 0;
	}
	if (!opt->socket_path)
		return 0;
	if (group_id(opt->socket_group, &group, err) < 0 || sock_listen(opt->socket_path, &l->local, err) < 0)
		return err->num;
	/* Until here only the owner could use the socket. */
	if (chown(opt->socket_path, (uid_t)-1, group) < 0 || chmod(opt->socket_path, 0660) < 0)
		return err_sys(err, ERR_INTERNAL, "give socket '%s' to group %u", opt->socket_path, group);
	add_where(l, "unix:", opt->socket_path);
	return 0;
}

/* ---- TCP ---- */

/* "ADDR:PORT" or "[ADDR]:PORT", ADDR in digits. */
static int parse_addr(const char *text, struct addrinfo **ret, struct err *err)
{
	const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE,
					.ai_socktype = SOCK_STREAM };
	const char *colon = strrchr(text, ':');
	char host[64];
	size_t len = colon ? (size_t)(colon - text) : 0;
	bool brackets = len > 2 && text[0] == '[' && text[len - 1] == ']';
	const char *digits = colon ? colon + 1 : "";

	if (!colon || len == 0 || len >= sizeof(host) || (!brackets && memchr(text, ':', len)))
		return err_set(err, ERR_INVALID, "--listen '%s': must be ADDR:PORT or [ADDR]:PORT", text);
	if (digits[strspn(digits, "0123456789")] || strlen(digits) > 5 || strtoul(digits, NULL, 10) > 65535)
		return err_set(err, ERR_INVALID, "--listen '%s': the port must be a number of 0 to 65535", text);
	snprintf(host, sizeof(host), "%.*s", (int)(brackets ? len - 2 : len), text + brackets);
	int r = getaddrinfo(host, digits, &hints, ret);
	if (r != 0)
		return err_set(err, ERR_INVALID, "--listen '%s': %s", text, gai_strerror(r));
	return 0;
}

static bool is_loopback(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr);
}

static int read_tls(const struct http_options *opt, struct http_listen *l, struct err *err)
{
	if (!opt->tls_cert != !opt->tls_key)
		return err_set(err, ERR_INVALID, "--tls-cert and --tls-key go together");
	if (!opt->tls_cert)
		return 0;
	if (read_secret("--tls-cert", opt->tls_cert, 0, &l->cert, err) < 0)
		return err->num;
	return read_secret("--tls-key", opt->tls_key, 07, &l->key, err);
}

static int bind_tcp(const struct http_options *opt, const struct addrinfo *ai, struct http_listen *l, struct err *err)
{
	struct sockaddr_storage addr;
	socklen_t len = sizeof(addr);
	char host[64], port[16], text[96];
	int on = 1;

	if (!is_loopback(ai->ai_addr) && !l->cert && !opt->insecure_plain_http)
		return err_set(err, ERR_INVALID,
			       "--listen '%s': without --tls-cert the token would go over the network in the clear; "
			       "give a certificate, or --insecure-plain-http",
			       opt->listen_addr);
	l->tcp_fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->tcp_fd < 0 || setsockopt(l->tcp_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0)
		return err_sys(err, ERR_INTERNAL, "--listen '%s': make the socket", opt->listen_addr);
	if (bind(l->tcp_fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(l->tcp_fd, SOMAXCONN) < 0)
		return err_sys(err, ERR_INVALID, "--listen '%s'", opt->listen_addr);
	if (getsockname(l->tcp_fd, (struct sockaddr *)(void *)&addr, &len) < 0 ||
	    getnameinfo((const struct sockaddr *)(const void *)&addr, len, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return err_set(err, ERR_INTERNAL, "--listen '%s': read the address back", opt->listen_addr);
	snprintf(text, sizeof(text), strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	add_where(l, l->cert ? "https://" : "http://", text);
	return 0;
}

static int listen_tcp(const struct http_options *opt, struct http_listen *l, struct err *err)
{
	struct addrinfo *ai = NULL;

	if (!opt->listen_addr)
		return 0;
	if (!opt->token_file)
		return err_set(err, ERR_INVALID, "--listen '%s' needs --token-file", opt->listen_addr);
	if (read_token(opt->token_file, &l->token, err) < 0 || read_tls(opt, l, err) < 0 ||
	    parse_addr(opt->listen_addr, &ai, err) < 0 || !ai)
		return err->num;
	int r = bind_tcp(opt, ai, l, err);
	freeaddrinfo(ai);
	return r;
}

int http_listen_open(const struct http_options *opt, struct http_listen *l, struct err *err)
{
	l->local = (struct sock_listener){ .fd = -1, .lock_fd = -1 };
	l->tcp_fd = -1;
	if (listen_local(opt, l, err) == 0 && listen_tcp(opt, l, err) == 0)
		return 0;
	http_listen_done(l);
	return err->num;
}

void http_listen_done(struct http_listen *l)
{
	sock_listener_done(&l->local);
	if (l->tcp_fd >= 0)
		close(l->tcp_fd);
	if (l->token)
		explicit_bzero(l->token, strlen(l->token));
	if (l->key)
		explicit_bzero(l->key, strlen(l->key));
	free(l->token);
	free(l->cert);
	free(l->key);
	*l = (struct http_listen){ .local = { .fd = -1, .lock_fd = -1 }, .tcp_fd = -1 };
}
