// SPDX-License-Identifier: Apache-2.0
/*
 * What /metrics tells Prometheus: counters, histograms of phases, requests by route, and gauges that are asked for at that
 * moment. Each name is written once, in the lists here. Safe from every thread.
 */
#ifndef FORKD_METRICS_H
#define FORKD_METRICS_H

#include "common/json64.h"

struct route;

/* X(NAME, "name", "help") */
#define FORKD_COUNTERS(X)                                                                                     \
	X(METRIC_CLONES_CREATED, "forkd_clones_created_total", "Clones that were handed out.")                \
	X(METRIC_CLONES_FAILED, "forkd_clones_failed_total", "Clones that could not be made.")                \
	X(METRIC_CLONES_DELETED, "forkd_clones_deleted_total", "Clones that were deleted by request or TTL.") \
	X(METRIC_CLONES_DIED, "forkd_clones_died_total", "Clones that ended without being asked to.")         \
	X(METRIC_CLONES_ADOPTED, "forkd_clones_adopted_total", "Clones taken back from an earlier daemon.")   \
	X(METRIC_TEMPLATES_CREATED, "forkd_templates_created_total", "Templates that became ready.")          \
	X(METRIC_TEMPLATES_FAILED, "forkd_templates_failed_total", "Templates that could not be made.")       \
	X(METRIC_TEMPLATES_DELETED, "forkd_templates_deleted_total", "Templates that were deleted.")          \
	X(METRIC_HOSTS_STARTED, "forkd_template_hosts_started_total", "Template hosts that were started.")    \
	X(METRIC_HOSTS_FAILED, "forkd_template_hosts_failed_total", "Template hosts that failed or died.")    \
	X(METRIC_ADMISSION_REFUSED, "forkd_admission_refused_total", "Requests refused for want of memory.")

#define FORKD_HISTOGRAMS(X)                                                                                            \
	X(HISTOGRAM_RESTORED, "forkd_clone_restored_seconds",                                                          \
	  "From a request's first byte to a clone's restored state.")                                                  \
	X(HISTOGRAM_RESUMED, "forkd_clone_resumed_seconds", "From a request's first byte to a clone's running vCPUs.") \
	X(HISTOGRAM_READY, "forkd_clone_ready_seconds", "From a request's first byte to a clone that is ready.")       \
	X(HISTOGRAM_TOTAL, "forkd_clone_total_seconds",                                                                \
	  "From a request's first byte to its answer, all its clones made.")                                           \
	X(HISTOGRAM_PAUSE, "forkd_snapshot_pause_seconds", "How long a clone stood still for a snapshot.")             \
	X(HISTOGRAM_TEMPLATE, "forkd_template_seconds", "From a request's first byte to a template that is ready.")    \
	X(HISTOGRAM_REQUEST, "forkd_http_request_seconds", "From a request's first byte to its answer, all routes.")

#define X(name, text, help) name,
enum metric { FORKD_COUNTERS(X) METRICS_N };
enum histogram { FORKD_HISTOGRAMS(X) HISTOGRAMS_N };
#undef X

struct metrics;

MUST_CHECK int metrics_new(struct metrics **ret, struct err *err);
void metrics_free(struct metrics *m);

void metrics_count(struct metrics *m, enum metric metric, uint64_t n);
void metrics_observe_us(struct metrics *m, enum histogram histogram, uint64_t us);
/* A request was answered. route NULL: the path has no route. */
void metrics_request(struct metrics *m, const struct route *route, unsigned status, uint64_t us);

/* Called at each scrape: adds gauges with metrics_gauge(). Set before the first request. */
typedef void metrics_gauges_fn(void *arg, struct strbuf *out);
void metrics_set_gauges(struct metrics *m, metrics_gauges_fn *gauges, void *arg);
/* One gauge with a line of help. */
void metrics_gauge(struct strbuf *out, const char *name, const char *help, uint64_t value);
/* One of several gauges of the same name, told apart by a label; `help` only with the first. */
void metrics_gauge_of(struct strbuf *out, const char *name, const char *help, const char *label,
		      const char *label_value, uint64_t value);

/* Everything, in Prometheus' text format. */
void metrics_print(struct metrics *m, struct strbuf *out);

#endif
