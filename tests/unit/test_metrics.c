// SPDX-License-Identifier: Apache-2.0
/* forkd/metrics: the numbers, and a text that Prometheus takes. */
#include "forkd/metrics.h"

#include "forkd/route.h"
#include "tests/unit/unit.h"

static const struct route routes[] = {
	{ .method = "GET", .path = "/v1/clones" },
	{ .method = "DELETE", .path = "/v1/clones/{id}" },
};

static struct metrics *make(void)
{
	struct metrics *m = NULL;
	struct err err = {};

	assert_int_equal(metrics_new(&m, &err), 0);
	return m;
}

static void has(const struct strbuf *out, const char *line)
{
	const char *at = strstr(out->text, line);

	if (!at || (at > out->text && at[-1] != '\n') || at[strlen(line)] != '\n')
		fail_msg("no line '%s' in:\n%s", line, out->text);
}

static void counts(void **state)
{
	struct metrics *m = make();
	autostrbuf struct strbuf out = {};

	(void)state;
	metrics_count(m, METRIC_CLONES_CREATED, 2);
	metrics_count(m, METRIC_CLONES_CREATED, 3);
	metrics_request(m, &routes[0], 200, 5);
	metrics_request(m, &routes[0], 201, 5);
	metrics_request(m, &routes[1], 404, 5);
	metrics_request(m, NULL, 404, 5);
	metrics_request(m, NULL, 7, 5); /* no status */
	metrics_print(m, &out);
	has(&out, "# TYPE forkd_clones_created_total counter");
	has(&out, "forkd_clones_created_total 5");
	has(&out, "forkd_clones_died_total 0");
	has(&out, "forkd_http_requests_total{method=\"GET\",route=\"/v1/clones\",status=\"2xx\"} 2");
	has(&out, "forkd_http_requests_total{method=\"DELETE\",route=\"/v1/clones/{id}\",status=\"4xx\"} 1");
	has(&out, "forkd_http_requests_total{method=\"\",route=\"\",status=\"4xx\"} 1");
	has(&out, "forkd_http_request_seconds_count 5");
	metrics_free(m);
}

static void observes(void **state)
{
	struct metrics *m = make();
	autostrbuf struct strbuf out = {};

	(void)state;
	metrics_observe_us(m, HISTOGRAM_READY, 100); /* in its bucket: le is "at most" */
	metrics_observe_us(m, HISTOGRAM_READY, 101);
	metrics_observe_us(m, HISTOGRAM_READY, 2000000);
	metrics_observe_us(m, HISTOGRAM_READY, 60000000); /* only in +Inf */
	metrics_print(m, &out);
	has(&out, "# TYPE forkd_clone_ready_seconds histogram");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"0.0001\"} 1");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"0.00025\"} 2");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"1\"} 2");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"2.5\"} 3");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"10\"} 3");
	has(&out, "forkd_clone_ready_seconds_bucket{le=\"+Inf\"} 4");
	has(&out, "forkd_clone_ready_seconds_sum 62.000201");
	has(&out, "forkd_clone_ready_seconds_count 4");
	metrics_free(m);
}

static void some_gauges(void *arg, struct strbuf *out)
{
	metrics_gauge(out, "forkd_free_bytes", "Free.", *(uint64_t *)arg);
	metrics_gauge_of(out, "forkd_clones", "Clones by state.", "state", "running", 3);
	metrics_gauge_of(out, "forkd_clones", NULL, "state", "paused", 1);
}

/* Every line is a comment or `name[{labels}] number`; each name has its type before its first sample, once. */
static void is_well_formed(void **state)
{
	struct metrics *m = make();
	autostrbuf struct strbuf out = {}, types = {};
	uint64_t free_bytes = UINT64_MAX;

	(void)state;
	metrics_set_gauges(m, some_gauges, &free_bytes);
	metrics_request(m, &routes[0], 200, 5);
	metrics_print(m, &out);
	has(&out, "forkd_free_bytes 18446744073709551615");
	has(&out, "forkd_clones{state=\"paused\"} 1");
	strbuf_puts(&types, " ");
	for (char *rest = out.text, *line; (line = strsep(&rest, "\n")) && rest;) {
		char name[128] = " ";
		if (strncmp(line, "# TYPE ", 7) == 0) {
			snprintf(name + 1, sizeof(name) - 1, "%.*s ", (int)strcspn(line + 7, " "), line + 7);
			assert_null(strstr(types.text, name));
			strbuf_puts(&types, name + 1);
		} else if (line[0] != '#') {
			size_t len = strcspn(line, "{ ");
			static const char *const parts[] = { "_bucket", "_sum", "_count" };
			for (size_t i = 0; i < ARRAY_LEN(parts); i++)
				if (len > strlen(parts[i]) &&
				    strncmp(line + len - strlen(parts[i]), parts[i], strlen(parts[i])) == 0)
					len -= strlen(parts[i]);
			snprintf(name + 1, sizeof(name) - 1, "%.*s ", (int)len, line);
			assert_non_null(strstr(types.text, name));
			char *value = strrchr(line, ' '), *end;
			strtod(value, &end);
			assert_true(*end == '\0' && end > value + 1);
		}
	}
	metrics_free(m);
}

static void many_routes(void **state)
{
	static struct route more[100];
	struct metrics *m = make();
	autostrbuf struct strbuf out = {};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		more[i] = (struct route){ .method = "GET", .path = "/x" };
		metrics_request(m, &more[i], 200, 1);
	}
	metrics_print(m, &out);
	has(&out,
	    "forkd_http_requests_total{method=\"\",route=\"\",status=\"2xx\"} 36"); /* without room of their own */
	metrics_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts),
		cmocka_unit_test(observes),
		cmocka_unit_test(is_well_formed),
		cmocka_unit_test(many_routes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
