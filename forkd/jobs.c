// SPDX-License-Identifier: Apache-2.0
/* Threads of jobs; the number of those at work has a bound. */
#include "forkd/jobs.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/log.h"
#include "forkd/errors.h"

struct jobs {
	pthread_mutex_t lock;
	pthread_cond_t ended;
	unsigned n; /* lock */
};

struct job {
	struct jobs *jobs;
	void (*run)(void *arg);
	void *arg;
};

int jobs_new(struct jobs **ret, struct err *err)
{
	struct jobs *j = calloc(1, sizeof(*j));

	if (!j)
		return err_num(err, ERR_INTERNAL, ENOMEM, "prepare for jobs");
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->ended, NULL);
	*ret = j;
	return 0;
}

void jobs_free(struct jobs *j)
{
	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	while (j->n > 0)
		pthread_cond_wait(&j->ended, &j->lock);
	pthread_mutex_unlock(&j->lock);
	pthread_cond_destroy(&j->ended);
	pthread_mutex_destroy(&j->lock);
	free(j);
}

static void *job_main(void *arg)
{
	struct job *job = arg;
	struct jobs *j = job->jobs;

	log_thread_name("job");
	job->run(job->arg);
	free(job);
	pthread_mutex_lock(&j->lock);
	j->n--;
	pthread_cond_broadcast(&j->ended);
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

int jobs_run(struct jobs *j, void (*run)(void *arg), void *arg, struct err *err)
{
	struct job *job = malloc(sizeof(*job));
	pthread_t thread;

	if (!job)
		return err_num(err, ERR_INTERNAL, ENOMEM, "start a thread");
	*job = (struct job){ j, run, arg };
	pthread_mutex_lock(&j->lock);
	int num = j->n < JOBS_MAX ? pthread_create(&thread, NULL, job_main, job) : EBUSY;
	j->n += num == 0;
	pthread_mutex_unlock(&j->lock);
	if (num != 0) {
		free(job);
		return num == EBUSY ? fail(err, E_BUSY, "%d templates are being built in the background", JOBS_MAX)
				    : err_num(err, ERR_INTERNAL, num, "start a thread");
	}
	pthread_detach(thread);
	return 0;
}
