// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_TESTS_MEMORY_FIXTURE_H
#define FERRY_TESTS_MEMORY_FIXTURE_H

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/mem/guest.h"

/* Fresh guest memory of `bytes` (and a firmware area) in a sealed memfd; NULL with *e on failure. */
static inline struct fy_gmem *fx_memory_area(uint64_t bytes, uint64_t area, struct fy_err *e)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)(bytes + area)) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
        close(fd);
        fy_fail(e, FY_EFAIL, "no memfd");
        return NULL;
    }
    return fy_gmem_open_area(fd, fy_dup(fd), bytes, area, 0, false, e);
}

static inline struct fy_gmem *fx_memory(uint64_t bytes, struct fy_err *e)
{
    return fx_memory_area(bytes, 0, e);
}

#endif
