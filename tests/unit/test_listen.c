// SPDX-License-Identifier: Apache-2.0
/* forkd/http_listen: what a foreign client must show, and every setting that is refused. */
#include "forkd/rest/listen.h"

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <sys/stat.h>
#include <time.h>

#include "common/log.h"
#include "forkd/rest/api.h"
#include "tests/unit/http_client.h"

#define TOKEN "0123456789abcdef-token"

static char dir[] = "/tmp/forkd-test-listen-XXXXXX";
static char sock[64], token[64], cert[64], key[64], scrap[64];

static const struct route routes[] = {
	{ .method = "GET", .path = "/healthz", .run = api_health, .open = true },
	{ .method = "GET", .path = "/v1/version", .run = api_version },
};

static void write_file(const char *name, const char *text, mode_t mode)
{
	unlink(name);
	autoclose int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	assert_int_equal(fchmod(fd, mode), 0);
}

/* A self-signed certificate for 127.0.0.1. */
static void make_certificate(void)
{
	gnutls_x509_privkey_t k;
	gnutls_x509_crt_t c;
	gnutls_datum_t pem;

	assert_int_equal(gnutls_x509_privkey_init(&k), 0);
	assert_int_equal(
		gnutls_x509_privkey_generate(k, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
		0);
	assert_int_equal(gnutls_x509_crt_init(&c), 0);
	gnutls_x509_crt_set_version(c, 3);
	gnutls_x509_crt_set_serial(c, "\1", 1);
	gnutls_x509_crt_set_activation_time(c, time(NULL) - 60);
	gnutls_x509_crt_set_expiration_time(c, time(NULL) + 3600);
	gnutls_x509_crt_set_dn_by_oid(c, GNUTLS_OID_X520_COMMON_NAME, 0, "forkd", 5);
	assert_int_equal(gnutls_x509_crt_set_key(c, k), 0);
	assert_int_equal(gnutls_x509_crt_sign2(c, c, k, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crt_export2(c, GNUTLS_X509_FMT_PEM, &pem), 0);
	write_file(cert, (const char *)pem.data, 0644);
	gnutls_free(pem.data);
	assert_int_equal(gnutls_x509_privkey_export2(k, GNUTLS_X509_FMT_PEM, &pem), 0);
	write_file(key, (const char *)pem.data, 0600);
	gnutls_free(pem.data);
	gnutls_x509_crt_deinit(c);
	gnutls_x509_privkey_deinit(k);
}

static int set_up(void **state)
{
	static const struct {
		char *path;
		const char *name;
	} files[] = { { sock, "sock" }, { token, "token" }, { cert, "cert" }, { key, "key" }, { scrap, "scrap" } };

	(void)state;
	log_init("test", LOG_ERROR, STDERR_FILENO);
	if (!mkdtemp(dir))
		return -1;
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		snprintf(files[i].path, 64, "%s/%s", dir, files[i].name);
	write_file(token, TOKEN "\n", 0600);
	make_certificate();
	return 0;
}

static int tear_down(void **state)
{
	char lock[80];

	(void)state;
	snprintf(lock, sizeof(lock), "%s.lock", sock);
	unlink(lock);
	unlink(token);
	unlink(cert);
	unlink(key);
	unlink(scrap);
	return rmdir(dir);
}

static struct http_options options(void)
{
	return (struct http_options){
		.routes = routes,
		.n_routes = ARRAY_LEN(routes),
		.socket_fd = -1,
		.listen_addr = "127.0.0.1:0",
		.token_file = token,
	};
}

/* ---- refused ---- */

static void refuse(const struct http_options *opt, const char *expected)
{
	struct http_server *server = NULL;
	struct err err = {};
	char line[ERR_MSG_BYTES];
	unsigned before = count_fds();

	assert_true(http_start(NULL, opt, &server, &err) < 0);
	assert_null(server);
	err_line(&err, line, sizeof(line));
	if (!strstr(line, expected))
		fail_msg("'%s' is not in '%s'", expected, line);
	assert_int_equal(count_fds(), before);
}

static void refuses_addresses(void **state)
{
	static const struct {
		const char *addr, *expected;
	} cases[] = {
		{ "127.0.0.1", "must be ADDR:PORT" },
		{ ":80", "must be ADDR:PORT" },
		{ "::1:80", "must be ADDR:PORT" },
		{ "[::1]", "must be ADDR:PORT" },
		{ "localhost:80", "--listen 'localhost:80': " },
		{ "127.0.0.1:http", "the port must be a number of 0 to 65535" },
		{ "127.0.0.1:99999", "the port must be a number of 0 to 65535" },
		{ "127.0.0.1:-1", "the port must be a number of 0 to 65535" },
		{ "192.0.2.1:0", "without --tls-cert the token would go over the network in the clear" },
		{ "0.0.0.0:0", "--insecure-plain-http" },
		{ "[::]:0", "--insecure-plain-http" },
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct http_options opt = options();
		opt.listen_addr = cases[i].addr;
		refuse(&opt, cases[i].expected);
	}
	struct http_options opt = options();
	opt.listen_addr = "192.0.2.1:0"; /* not ours */
	opt.insecure_plain_http = true;
	refuse(&opt, "--listen '192.0.2.1:0': Cannot assign requested address");
}

static void refuses_tokens(void **state)
{
	static const struct {
		const char *text;
		mode_t mode;
		const char *expected;
	} cases[] = {
		{ TOKEN, 0640, "has mode 0640: others could use it; run chmod 600" },
		{ TOKEN, 0604, "has mode 0604" },
		{ "short\n", 0600, "has 5 characters; it must have 16 to 4096" },
		{ "", 0600, "has 0 characters" },
		{ TOKEN "\n" TOKEN "\n", 0600, "must have one line" },
		{ "0123456789 abcdefgh", 0600, "printable ASCII without blanks" },
		{ "0123456789\xc3\xa9"
		  "abcdefgh",
		  0600, "printable ASCII without blanks" },
	};
	struct http_options opt = options();

	(void)state;
	opt.token_file = scrap;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		write_file(scrap, cases[i].text, cases[i].mode);
		refuse(&opt, cases[i].expected);
	}
	unlink(scrap);
	refuse(&opt, "--token-file: open '");
	opt.token_file = dir;
	refuse(&opt, "is no regular file");
	opt.token_file = NULL;
	refuse(&opt, "--listen '127.0.0.1:0' needs --token-file");
}

static void refuses_certificates(void **state)
{
	struct http_options opt = options();

	(void)state;
	opt.tls_cert = cert;
	refuse(&opt, "--tls-cert and --tls-key go together");
	opt.tls_key = scrap;
	write_file(scrap, "key", 0644);
	refuse(&opt, "--tls-key: '");
	write_file(scrap, "no PEM", 0600);
	refuse(&opt, "start the HTTPS server: ");
	opt.tls_key = key;
	opt.tls_cert = "/no/such";
	refuse(&opt, "--tls-cert: open '/no/such'");
}

static void refuses_groups(void **state)
{
	struct http_options opt = options();

	(void)state;
	opt.socket_path = sock;
	opt.socket_group = "no-such-group";
	refuse(&opt, "--socket-group: there is no group 'no-such-group'");
	opt.socket_group = "4294967295";
	refuse(&opt, "there is no group");
	opt.socket_group = "";
	refuse(&opt, "there is no group");
}

/* ---- served ---- */

static struct http_server *start(const struct http_options *opt, unsigned *ret_port)
{
	struct http_server *server = NULL;
	struct err err = {};

	if (http_start(NULL, opt, &server, &err) < 0)
		fail_msg("%s", err.msg);
	const char *colon = strrchr(http_where(server), ':');
	*ret_port = colon ? (unsigned)strtoul(colon + 1, NULL, 10) : 0;
	return server;
}

static int ask(unsigned port, const char *target, const char *authorization)
{
	autoclose int fd = client_tcp(port);
	autoanswer struct answer a = {};
	char text[8192];

	snprintf(text, sizeof(text), "GET %s HTTP/1.1\r\nHost: x\r\n%s%s\r\n\r\n", target,
		 authorization ? "Authorization: " : "X: ", authorization ? authorization : "x");
	client_puts(fd, text);
	client_read(fd, false, &a);
	if (a.status == 401) {
		assert_string_equal(answer_text(&a, "code"), "unauthorized");
		assert_string_equal(answer_header(&a, "WWW-Authenticate"), "Bearer");
	}
	return a.status;
}

static void token_opens(void **state)
{
	static const struct {
		const char *authorization;
		int status;
	} cases[] = {
		{ "Bearer " TOKEN, 200 },
		{ "bearer " TOKEN, 200 },
		{ NULL, 401 },
		{ "Bearer", 401 },
		{ "Bearer ", 401 },
		{ "Bearer " TOKEN "x", 401 },
		{ "Bearer x" TOKEN, 401 },
		{ "Bearer 0123456789abcdef-toke", 401 },
		{ "Basic " TOKEN, 401 },
		{ TOKEN, 401 },
		{ "Bearer " TOKEN TOKEN, 401 },
	};
	const struct http_options opt = options();
	unsigned before = count_fds(), port;
	struct http_server *server = start(&opt, &port);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(ask(port, "/v1/version", cases[i].authorization), cases[i].status);
		assert_int_equal(ask(port, "/nothing", cases[i].authorization), cases[i].status == 200 ? 404 : 401);
		assert_int_equal(ask(port, "/healthz", cases[i].authorization), 200);
	}
	http_stop(server);
	assert_int_equal(count_fds(), before);
}

static void says_where(void **state)
{
	struct http_options opt = options();
	char expected[256];
	unsigned port;

	(void)state;
	opt.socket_path = sock;
	opt.listen_addr = "[::1]:0";
	struct http_server *server = NULL;
	struct err err = {};
	if (http_start(NULL, &opt, &server, &err) < 0) /* a machine without IPv6 */
		opt.listen_addr = "127.0.0.1:0";
	http_stop(steal_ptr(&server));
	server = start(&opt, &port);
	assert_true(port > 0);
	snprintf(expected, sizeof(expected), "unix:%s http://%s:%u", sock,
		 opt.listen_addr[0] == '[' ? "[::1]" : "127.0.0.1", port);
	assert_string_equal(http_where(server), expected);
	http_stop(server);
	opt.listen_addr = NULL;
	server = start(&opt, &port);
	snprintf(expected, sizeof(expected), "unix:%s", sock);
	assert_string_equal(http_where(server), expected);
	http_stop(server);
}

static void group_of_the_socket(void **state)
{
	struct http_options opt = options();
	struct stat st;
	unsigned port;

	(void)state;
	if (geteuid() != 0)
		skip();
	opt.socket_path = sock;
	opt.listen_addr = NULL;
	opt.socket_group = "12345";
	struct http_server *server = start(&opt, &port);
	assert_int_equal(stat(sock, &st), 0);
	assert_int_equal(st.st_gid, 12345);
	assert_int_equal(st.st_mode & 07777, 0660);
	http_stop(server);
}

/* As systemd hands a socket over; the file stays when the server stops. */
static void inherited_socket(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct http_options opt = options();
	autoanswer struct answer a = {};
	unsigned port;

	(void)state;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", sock);
	opt.socket_path = "/never/used";
	opt.listen_addr = NULL;
	opt.socket_fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(opt.socket_fd, (const struct sockaddr *)(const void *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(opt.socket_fd, 5), 0);
	autoclose int fd = client_unix(sock); /* before the server is there */
	client_puts(fd, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
	struct http_server *server = start(&opt, &port);
	assert_string_equal(http_where(server) + 5, sock);
	client_read(fd, false, &a);
	assert_int_equal(a.status, 200);
	http_stop(server);
	assert_int_equal(unlink(sock), 0);
	struct err err = {};
	opt.socket_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	assert_true(http_start(NULL, &opt, &server, &err) < 0);
	assert_non_null(strstr(err.msg, "the inherited socket\n"));
}

static int tls_ask(unsigned port, const char *text, const char *priority)
{
	autoclose int fd = client_tcp(port);
	gnutls_certificate_credentials_t cred;
	gnutls_session_t session;
	char answer[4096] = "";
	int status = -1, r;

	assert_int_equal(gnutls_certificate_allocate_credentials(&cred), 0);
	assert_int_equal(gnutls_init(&session, GNUTLS_CLIENT), 0);
	gnutls_priority_set_direct(session, priority, NULL);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, cred);
	gnutls_transport_set_int(session, fd);
	gnutls_handshake_set_timeout(session, 10000);
	do
		r = gnutls_handshake(session);
	while (r < 0 && !gnutls_error_is_fatal(r));
	if (r == 0 && gnutls_record_send(session, text, strlen(text)) > 0 &&
	    gnutls_record_recv(session, answer, sizeof(answer) - 1) > 0)
		assert_int_equal(sscanf(answer, "HTTP/1.1 %d", &status), 1);
	gnutls_deinit(session);
	gnutls_certificate_free_credentials(cred);
	return status;
}

static void tls(void **state)
{
	static const char with[] = "GET /v1/version HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " TOKEN "\r\n\r\n";
	static const char without[] = "GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n";
	struct http_options opt = options();
	autoanswer struct answer a = {};
	unsigned port;

	(void)state;
	opt.tls_cert = cert;
	opt.tls_key = key;
	opt.socket_path = sock;
	struct http_server *server = start(&opt, &port);
	assert_non_null(strstr(http_where(server), " https://127.0.0.1:"));
	assert_int_equal(tls_ask(port, with, "NORMAL"), 200);
	assert_int_equal(tls_ask(port, with, "NORMAL:-VERS-ALL:+VERS-TLS1.2"), 200);
	assert_int_equal(tls_ask(port, with, "NORMAL:-VERS-ALL:+VERS-TLS1.1"), -1);
	assert_int_equal(tls_ask(port, without, "NORMAL"), 401);
	autoclose int plain = client_tcp(port); /* no TLS, no answer */
	client_puts(plain, with);
	client_read(plain, false, &a);
	assert_int_equal(a.status, 0);
	autoclose int local = client_unix(sock); /* the unix socket stays plain */
	client_puts(local, without);
	client_read(local, false, &a);
	assert_int_equal(a.status, 200);
	http_stop(server);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_addresses),
		cmocka_unit_test(refuses_tokens),
		cmocka_unit_test(refuses_certificates),
		cmocka_unit_test(refuses_groups),
		cmocka_unit_test(token_opens),
		cmocka_unit_test(says_where),
		cmocka_unit_test(group_of_the_socket),
		cmocka_unit_test(inherited_socket),
		cmocka_unit_test(tls),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
