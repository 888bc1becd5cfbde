// SPDX-License-Identifier: Apache-2.0
/* Counting without a lock, and the text format. */
#include "forkd/metrics.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "common/version.h"
#include "forkd/route.h"

/* Upper bounds of the buckets in microseconds, and as Prometheus wants them. */
static const struct {
	uint64_t us;
	const char *le;
} buckets[] = {
	{ 100, "0.0001" },  { 250, "0.00025" }, { 500, "0.0005" },  { 1000, "0.001" },
	{ 2500, "0.0025" }, { 5000, "0.005" },  { 10000, "0.01" },  { 25000, "0.025" },
	{ 50000, "0.05" },  { 100000, "0.1" },  { 250000, "0.25" }, { 500000, "0.5" },
	{ 1000000, "1" },   { 2500000, "2.5" }, { 5000000, "5" },   { 10000000, "10" },
};

enum { ROUTES_MAX = 64, CLASSES = 5 }; /* 1xx to 5xx */

static const struct {
	const char *name, *help;
} counter_rows[] = {
#define X(id, name_, help_) [id] = { .name = (name_), .help = (help_) },
	FORKD_COUNTERS(X)
}, histogram_rows[] = {
	FORKD_HISTOGRAMS(X)
#undef X
};

struct histogram_data {
	atomic_uint_fast64_t in[ARRAY_LEN(buckets) + 1]; /* not cumulative */
	atomic_uint_fast64_t sum_us;
};

struct route_data {
	_Atomic(const struct route *) route; /* NULL: a free slot */
	atomic_uint_fast64_t answers[CLASSES];
};

struct metrics {
	atomic_uint_fast64_t counters[METRICS_N];
	struct histogram_data histograms[HISTOGRAMS_N];
	struct route_data routes[ROUTES_MAX], unknown;
	metrics_gauges_fn *gauges;
	void *gauges_arg;
};

int metrics_new(struct metrics **ret, struct err *err)
{
	*ret = calloc(1, sizeof(**ret));
	return *ret ? 0 : err_num(err, ERR_INTERNAL, ENOMEM, "make the metrics");
}

void metrics_free(struct metrics *m)
{
	free(m);
}

void metrics_count(struct metrics *m, enum metric metric, uint64_t n)
{
	atomic_fetch_add_explicit(&m->counters[metric], n, memory_order_relaxed);
}

void metrics_observe_us(struct metrics *m, enum histogram histogram, uint64_t us)
{
	struct histogram_data *h = &m->histograms[histogram];
	unsigned i = 0;

	while (i < ARRAY_LEN(buckets) && us > buckets[i].us)
		i++;
	atomic_fetch_add_explicit(&h->in[i], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->sum_us, us, memory_order_relaxed);
}

/* The route's slot; the first request of a route takes a free one. */
static struct route_data *slot_of(struct metrics *m, const struct route *route)
{
	for (struct route_data *slot = m->routes; route && slot < m->routes + ROUTES_MAX; slot++) {
		const struct route *have = NULL;
		if (atomic_load(&slot->route) == route || atomic_compare_exchange_strong(&slot->route, &have, route) ||
		    have == route)
			return slot;
	}
	return &m->unknown;
}

void metrics_request(struct metrics *m, const struct route *route, unsigned status, uint64_t us)
{
	unsigned class = status / 100 - 1;

	if (class < CLASSES)
		atomic_fetch_add_explicit(&slot_of(m, route)->answers[class], 1, memory_order_relaxed);
	metrics_observe_us(m, HISTOGRAM_REQUEST, us);
}

void metrics_set_gauges(struct metrics *m, metrics_gauges_fn *gauges, void *arg)
{
	m->gauges = gauges;
	m->gauges_arg = arg;
}

/* ---- the text ---- */

static void head(struct strbuf *out, const char *name, const char *type, const char *help)
{
	if (help)
		strbuf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void sample(struct strbuf *out, const char *name, uint64_t value)
{
	strbuf_printf(out, "%s %llu\n", name, (unsigned long long)value);
}

void metrics_gauge(struct strbuf *out, const char *name, const char *help, uint64_t value)
{
	head(out, name, "gauge", help);
	sample(out, name, value);
}

void metrics_gauge_of(struct strbuf *out, const char *name, const char *help, const char *label,
		      const char *label_value, uint64_t value)
{
	head(out, name, "gauge", help);
	strbuf_printf(out, "%s{%s=", name, label);
	strbuf_json(out, label_value, strlen(label_value)); /* the same escapes, for our names */
	strbuf_printf(out, "} %llu\n", (unsigned long long)value);
}

static void print_histogram(struct strbuf *out, const char *name, const char *help, struct histogram_data *h)
{
	uint64_t total = 0, sum_us = atomic_load(&h->sum_us);

	head(out, name, "histogram", help);
	for (unsigned i = 0; i <= ARRAY_LEN(buckets); i++) {
		total += atomic_load(&h->in[i]);
		strbuf_printf(out, "%s_bucket{le=\"%s\"} %llu\n", name, i < ARRAY_LEN(buckets) ? buckets[i].le : "+Inf",
			      (unsigned long long)total);
	}
	strbuf_printf(out, "%s_sum %llu.%06llu\n%s_count %llu\n", name, (unsigned long long)(sum_us / 1000000),
		      (unsigned long long)(sum_us % 1000000), name, (unsigned long long)total);
}

static void print_route(struct strbuf *out, const char *method, const char *path, struct route_data *slot)
{
	for (unsigned i = 0; i < CLASSES; i++) {
		uint64_t n = atomic_load(&slot->answers[i]);
		if (n > 0)
			strbuf_printf(out,
				      "forkd_http_requests_total{method=\"%s\",route=\"%s\",status=\"%uxx\"} %llu\n",
				      method, path, i + 1, (unsigned long long)n);
	}
}

void metrics_print(struct metrics *m, struct strbuf *out)
{
	head(out, "forkd_build_info", "gauge", "The version of this daemon.");
	strbuf_puts(out, "forkd_build_info{version=\"" FORKD_VERSION "\"} 1\n");
	for (unsigned i = 0; i < METRICS_N; i++) {
		head(out, counter_rows[i].name, "counter", counter_rows[i].help);
		sample(out, counter_rows[i].name, atomic_load(&m->counters[i]));
	}
	head(out, "forkd_http_requests_total", "counter", "Requests that were answered, by route and status.");
	for (unsigned i = 0; i < ROUTES_MAX; i++) {
		const struct route *route = atomic_load(&m->routes[i].route);
		if (route)
			print_route(out, route->method, route->path, &m->routes[i]);
	}
	print_route(out, "", "", &m->unknown);
	for (unsigned i = 0; i < HISTOGRAMS_N; i++)
		print_histogram(out, histogram_rows[i].name, histogram_rows[i].help, &m->histograms[i]);
	if (m->gauges)
		m->gauges(m->gauges_arg, out);
}
