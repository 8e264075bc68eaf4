/* A clock that another process sets. When preloaded, it shifts a program's wall clock by the number of
 * seconds in the file that SPOKE_CLOCK names. Timers use the monotonic clock and are not affected.
 *
 * libfaketime was tried and rejected: it allocates while it reads the clock, and jemalloc, which
 * Debian's redis-server uses, reads the clock before it can allocate. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t ahead(void) {
    static const volatile int64_t *seconds;
    if (!seconds) {
        const char *path = getenv("SPOKE_CLOCK");
        int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
        void *page = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *seconds, PROT_READ, MAP_SHARED, file, 0);
        if (file >= 0) close(file);
        if (page == MAP_FAILED) return 0;
        seconds = page;
    }
    return *seconds;
}

int clock_gettime(clockid_t id, struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, id, time);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) time->tv_sec += ahead();
    return failed;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int failed = syscall(SYS_gettimeofday, time, zone);
    if (!failed && time) time->tv_sec += ahead();
    return failed;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result) *result = now.tv_sec;
    return now.tv_sec;
}
