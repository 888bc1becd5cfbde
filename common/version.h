// SPDX-License-Identifier: Apache-2.0
/* The version of every program of the project. */
#ifndef COMMON_VERSION_H
#define COMMON_VERSION_H

#define FORKD_VERSION "0.1.0"

#endif
