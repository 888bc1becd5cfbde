// SPDX-License-Identifier: Apache-2.0
/* The routes of the agent's API: one table, which ends with a row without a method. */
#ifndef GUEST_ROUTES_H
#define GUEST_ROUTES_H

#include "guest/http.h"

extern const struct route api_routes[];

#endif
