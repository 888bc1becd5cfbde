// SPDX-License-Identifier: Apache-2.0
/* Start and stop of the front. */
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "common/log.h"
#include "forkd/front/conn.h"

enum {
	STOP_WAIT_S = 10,
	LINGER_MS = 2000,
	TICK_MS = 5000, /* a stream that nobody wakes is looked at so often */
	MORE_THREADS = 8,
};

bool front_stopping(const struct front *f)
{
	return atomic_load(&f->stopping);
}

/* ---- streams ---- */

void front_wake(struct front *f)
{
	if (atomic_load(&f->n_streams) > 0 && eventfd_write(f->wake_fd, 1) < 0)
		log_debug("http: the streams are to be woken already");
}

static bool on_wake(struct source *s, unsigned why)
{
	struct front *f = container_of(s, struct front, waker);
	eventfd_t times;

	if (why & POOL_STOP) {
		pool_forget(f->pool, s);
		return false;
	}
	(void)eventfd_read(f->wake_fd, &times);
	pool_arm(f->pool, s, 0, EPOLLIN);
	pthread_mutex_lock(&f->lock);
	for (struct conn *c = TAILQ_FIRST(&f->streams); c; c = TAILQ_NEXT(c, link))
		pool_kick(f->pool, &c->peer->source);
	pthread_mutex_unlock(&f->lock);
	return true;
}

/* ---- start and stop ---- */

static bool on_spoken(void *arg, struct peer *peer)
{
	return conn_start(arg, peer);
}

static uint64_t on_expire(void *arg, uint64_t now)
{
	struct front *f = arg;

	return acceptor_expire(f->acceptor, now);
}

static int start_pool(struct front *f, const struct front_options *opt, struct err *err)
{
	const struct pool_options po = {
		.threads_max = N_SHARES * opt->max_connections + MORE_THREADS,
		.deadline_ms = { [DEADLINE_IDLE] = opt->idle_s * 1000ULL,
				 [DEADLINE_LINGER] = LINGER_MS,
				 [DEADLINE_TICK] = TICK_MS },
		.expire = on_expire,
		.arg = f,
	};

	f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (f->wake_fd < 0)
		return err_sys(err, ERR_INTERNAL, "start the front");
	if (pool_new(&po, &f->pool, err) < 0 || pool_add(f->pool, &f->waker, f->wake_fd, err) < 0)
		return err->num;
	pool_begin(f->pool, &f->waker, EPOLLIN);
	return 0;
}

static int start_all(struct front *f, const struct front_options *opt, struct err *err)
{
	struct accept_options ao = {
		.n_listeners = opt->n_listeners,
		.max_connections = opt->max_connections,
		.idle_s = opt->idle_s,
		.token_s = opt->token_s,
		.spoken = on_spoken,
		.arg = f,
	};

	for (unsigned i = 0; i < opt->n_listeners; i++)
		ao.listeners[i] = opt->listeners[i];
	if (opt->tls_cert && tls_server_new(opt->tls_cert, opt->tls_key, &f->tls, err) < 0)
		return err->num;
	if (start_pool(f, opt, err) < 0)
		return err->num;
	ao.pool = f->pool;
	return acceptor_new(&ao, &f->acceptor, err) < 0 ? err->num : acceptor_start(f->acceptor, err);
}

int front_start(const struct front_options *opt, struct front **ret, struct err *err)
{
	struct front *f = calloc(1, sizeof(*f));

	if (!f)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start the front");
	f->hooks = opt->hooks;
	f->waker.ready = on_wake;
	f->wake_fd = -1;
	TAILQ_INIT(&f->streams);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->idle, NULL);
	if (start_all(f, opt, err) < 0) {
		front_stop(f);
		return err->num;
	}
	*ret = f;
	return 0;
}

static void wait_for_answers(struct front *f)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += STOP_WAIT_S;
	pthread_mutex_lock(&f->lock);
	while (f->n_running > 0)
		if (pthread_cond_timedwait(&f->idle, &f->lock, &until) != 0)
			break;
	pthread_mutex_unlock(&f->lock);
}

void front_stop(struct front *f)
{
	if (!f)
		return;
	atomic_store(&f->stopping, true);
	if (f->acceptor)
		acceptor_stop(f->acceptor);
	front_wake(f); /* streams end */
	wait_for_answers(f);
	if (f->pool)
		pool_stop(f->pool);
	pool_free(f->pool);
	acceptor_free(f->acceptor);
	tls_server_free(f->tls);
	if (f->wake_fd >= 0)
		close(f->wake_fd);
	pthread_cond_destroy(&f->idle);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
