// SPDX-License-Identifier: Apache-2.0
/* All routes of the API. A service adds its rows, and declares its functions in a header of its own. */
#include "guest/routes.h"

static void health(struct exchange *ex)
{
	ex_answer(ex, 204, NULL, NULL, 0);
}

const struct route api_routes[] = {
	{ "GET", "/health", BODY_NONE, STYLE_PLAIN, 0, health },
	{},
};
