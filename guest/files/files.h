// SPDX-License-Identifier: Apache-2.0
/*
 * GET and POST /files: one file down, one file or several ones up, of any size, as they come. Each
 * function is the begin() of a route. The loop's thread.
 */
#ifndef GUEST_FILES_FILES_H
#define GUEST_FILES_FILES_H

#include "guest/http.h"

void files_get(struct exchange *ex);
void files_post(struct exchange *ex);

/* Answers with what `err` says: 400, 404, 507 where a disk is full, 500. */
void files_fail(struct exchange *ex, const struct err *err);
/* Does the header Accept-Encoding (RFC 9110, section 12.5.3; NULL: absent) allow bytes as they are? */
bool files_accepts_identity(const char *header);

#endif
