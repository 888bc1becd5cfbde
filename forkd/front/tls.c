// SPDX-License-Identifier: Apache-2.0
/* GnuTLS sessions of the server's side. */
#include "forkd/front/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

struct tls_server {
	gnutls_certificate_credentials_t cred;
	gnutls_priority_t priorities;
};

struct tls {
	gnutls_session_t session;
	bool unsent; /* a record could not be sent whole: gnutls_record_send() goes on with it */
};

static int refuse(struct err *err, int r)
{
	return err_set(err, ERR_INVALID, "start the HTTPS server: %s", gnutls_strerror(r));
}

int tls_server_new(const char *cert, const char *key, struct tls_server **ret, struct err *err)
{
	struct tls_server *s = calloc(1, sizeof(*s));
	const gnutls_datum_t c = { .data = (unsigned char *)(uintptr_t)cert, .size = (unsigned)strlen(cert) };
	const gnutls_datum_t k = { .data = (unsigned char *)(uintptr_t)key, .size = (unsigned)strlen(key) };

	if (!s)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the HTTPS server");
	int r = gnutls_certificate_allocate_credentials(&s->cred);
	if (r >= 0)
		r = gnutls_certificate_set_x509_key_mem(s->cred, &c, &k, GNUTLS_X509_FMT_PEM);
	if (r >= 0)
		r = gnutls_priority_init(&s->priorities, PRIORITIES, NULL);
	if (r < 0) {
		tls_server_free(s);
		return refuse(err, r);
	}
	*ret = s;
	return 0;
}

void tls_server_free(struct tls_server *s)
{
	if (!s)
		return;
	if (s->priorities)
		gnutls_priority_deinit(s->priorities);
	if (s->cred)
		gnutls_certificate_free_credentials(s->cred);
	free(s);
}

int tls_new(struct tls_server *server, int fd, struct tls **ret, struct err *err)
{
	struct tls *t = calloc(1, sizeof(*t));

	if (!t)
		return err_num(err, ERR_INTERNAL, ENOMEM, "begin a TLS session");
	int r = gnutls_init(&t->session, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL);
	if (r >= 0)
		r = gnutls_priority_set(t->session, server->priorities);
	if (r >= 0)
		r = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, server->cred);
	if (r < 0) {
		tls_free(t);
		return err_set(err, ERR_INTERNAL, "begin a TLS session: %s", gnutls_strerror(r));
	}
	gnutls_transport_set_int(t->session, fd);
	*ret = t;
	return 0;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	if (t->session)
		gnutls_deinit(t->session);
	free(t);
}

/* GnuTLS' number as a negative errno; 0: the call is to be made once more. */
static int to_errno(int r)
{
	if (r == GNUTLS_E_AGAIN)
		return -EAGAIN;
	/* A client of TLS 1.2 that wants another handshake in the middle gets none. */
	if (r == GNUTLS_E_INTERRUPTED || (!gnutls_error_is_fatal(r) && r != GNUTLS_E_REHANDSHAKE))
		return 0;
	return -EPROTO;
}

int tls_handshake(struct tls *t)
{
	int r, num = 0;

	do
		r = gnutls_handshake(t->session);
	while (r < 0 && (num = to_errno(r)) == 0);
	return r < 0 ? num : 0;
}

bool tls_wants_write(const struct tls *t)
{
	return gnutls_record_get_direction(t->session) == 1;
}

ssize_t tls_recv(struct tls *t, void *buf, size_t size)
{
	ssize_t r;
	int num = 0;

	do
		r = gnutls_record_recv(t->session, buf, size);
	while (r < 0 && (num = to_errno((int)r)) == 0);
	return r < 0 ? num : r;
}

ssize_t tls_send(struct tls *t, const void *buf, size_t len)
{
	ssize_t r;
	int num = 0;

	do
		r = gnutls_record_send(t->session, t->unsent ? NULL : buf, t->unsent ? 0 : len);
	while (r < 0 && (num = to_errno((int)r)) == 0);
	t->unsent = r < 0 && num == -EAGAIN;
	return r < 0 ? num : r;
}

bool tls_has_more(const struct tls *t)
{
	return gnutls_record_check_pending(t->session) > 0;
}

void tls_end(struct tls *t)
{
	if (!t->unsent)
		(void)gnutls_bye(t->session, GNUTLS_SHUT_WR);
}
