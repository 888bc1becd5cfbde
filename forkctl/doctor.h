// SPDX-License-Identifier: Apache-2.0
/* What the files of forkctl doctor share: a finding, and the checks that are not in doctor.c. */
#ifndef FORKCTL_DOCTOR_H
#define FORKCTL_DOCTOR_H

#include <stdbool.h>

#include "common/auto.h"

struct cli;

enum { DETAIL_MAX = 2048 };
enum grade { GRADE_OK, GRADE_WARN, GRADE_FAIL };

struct finding {
	char detail[DETAIL_MAX], fix[DETAIL_MAX]; /* fix: "" when there is nothing to do */
};

/* Fills the finding, and returns `g`. */
enum grade grade(enum grade g, struct finding *f, const char *fix, const char *fmt, ...) PRINTF_LIKE(4, 5);
/* The first line of a small file; false when it cannot be read. */
bool doctor_read_line(const char *path, char *buf, size_t size);

/* Networks for clones (docs/network.md): what they need, whether their addresses are free, and who else filters. */
enum grade doctor_networks(struct cli *cli, struct finding *f);
enum grade doctor_network_range(struct cli *cli, struct finding *f);
enum grade doctor_firewalls(struct cli *cli, struct finding *f);

#endif
