// SPDX-License-Identifier: Apache-2.0
/* The folder in which an image is made, and running tools in it. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/image.h"
#include "hv/base/io.h"

#define TAIL 700          /* bytes of a tool's output in an error */
#define FULL (8ull << 20) /* a tool that failed with less than this free failed for want of room */
#define SYSTEM_TOOLS ":/usr/local/sbin:/usr/sbin:/sbin"

static volatile sig_atomic_t stopped;
static volatile sig_atomic_t child;

static volatile sig_atomic_t cleaning;

static void on_signal(int signo)
{
    if (cleaning)
        return;
    stopped = signo;
    if (child > 0)
        kill(-(pid_t)child, SIGTERM);
}

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
static struct sigaction before[3];

static void catch_signals(void)
{
    struct sigaction sa = {.sa_handler = on_signal};
    for (size_t i = 0; i < 3; i++)
        sigaction(signals[i], &sa, &before[i]);
}

/* Tools of the system are in folders that a user's PATH may lack. */
static int extend_path(struct fy_err *e)
{
    const char *old = getenv("PATH");
    char *path = NULL;
    if (asprintf(&path, "%s" SYSTEM_TOOLS, old ? old : "/usr/bin:/bin") < 0)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    int rc = setenv("PATH", path, 1);
    if (rc == 0)
        rc = setenv("LC_ALL", "C.UTF-8", 1); /* their messages are looked through */
    free(path);
    return rc ? fy_fail(e, FY_ERESOURCE, "no memory") : 0;
}

static int make_folder(struct image_work *w, const char *path, struct fy_err *e)
{
    char copy[PATH_MAX], folder[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return fy_fail(e, FY_EUSAGE, "the path is too long");
    if (!realpath(dirname(copy), folder))
        return fy_fail_errno(e, FY_ENOTFOUND, errno, "no folder for %s", path);
    if (snprintf(w->dir, sizeof w->dir, "%s/.vmctl-image-XXXXXX", folder) >= (int)sizeof w->dir)
        return fy_fail(e, FY_EUSAGE, "the path is too long");
    w->parent = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->parent < 0 || !mkdtemp(w->dir)) {
        w->dir[0] = 0;
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a folder in %s", folder);
    }
    w->fd = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    w->log = w->fd < 0 ? -1 : openat(w->fd, "log", O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (w->log < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot use %s", w->dir);
    return 0;
}

int image_work_begin(struct image_work *w, const char *path, bool verbose, struct fy_err *e)
{
    *w = (struct image_work){.fd = -1, .parent = -1, .log = -1, .verbose = verbose, .mapped = geteuid() != 0};
    stopped = 0;
    catch_signals();
    /* What a tool leaves behind when it is stopped comes to us, to be waited for. */
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "cannot look after processes");
    if (extend_path(e) == 0 && make_folder(w, path, e) == 0)
        return 0;
    image_work_end(w);
    return -1;
}

void image_work_end(struct image_work *w)
{
    if (w->dir[0]) {
        /* What a signal asks for is on its way. */
        cleaning = 1;
        stopped = 0;
        const char *const argv[] = {"rm", "-rf", "tree", NULL};
        struct fy_err ignored;
        if (w->fd >= 0 && w->log >= 0 && faccessat(w->fd, "tree", F_OK, 0) == 0)
            (void)image_run(w, &(struct image_run){.argv = argv, .as_root = true}, &ignored);
        const char *const all[] = {"rm", "-rf", w->dir, NULL};
        if (w->fd >= 0)
            (void)image_run(w, &(struct image_run){.argv = all}, &ignored);
        w->dir[0] = 0;
        cleaning = 0;
    }
    fy_close(&w->log);
    fy_close(&w->fd);
    fy_close(&w->parent);
    for (size_t i = 0; i < 3; i++)
        sigaction(signals[i], &before[i], NULL);
}

int image_work_write(const struct image_work *w, const char *name, const void *data, size_t len, mode_t mode,
                     struct fy_err *e)
{
    int fd = openat(w->fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
    int rc = fd < 0 ? -1 : fy_write_all(fd, data, len);
    if (rc < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot write %s/%s", w->dir, name);
    fy_close(&fd);
    return rc;
}

int image_work_publish(const struct image_work *w, const char *name, const char *path, struct fy_err *e)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    if (stopped)
        return fy_fail(e, FY_ECANCELLED, "cancelled");
    int fd = openat(w->fd, name, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -1 : fsync(fd);
    if (rc == 0)
        rc = renameat(w->fd, name, w->parent, basename(copy));
    if (rc == 0)
        rc = fsync(w->parent);
    if (rc < 0)
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot write %s", path);
    fy_close(&fd);
    return rc;
}

static int stdin_of(const struct image_run *r)
{
    if (!r->input)
        return open("/dev/null", O_RDONLY | O_CLOEXEC);
    int fd = memfd_create("input", MFD_CLOEXEC);
    if (fd >= 0 && fy_pwrite_all(fd, r->input, strlen(r->input), 0) < 0)
        fy_close(&fd);
    return fd;
}

static void exec_tool(const struct image_work *w, const struct image_run *r, int in)
{
    const char *argv[64];
    size_t n = 0;
    if (r->as_root && w->mapped) {
        /* The caller is root in there, and its range of /etc/subuid the other users. */
        static const char *const map[] = {"unshare", "--map-root-user", "--map-auto", "--"};
        for (size_t i = 0; i < 4; i++)
            argv[n++] = map[i];
    }
    for (size_t i = 0; r->argv[i] && n < 63; i++)
        argv[n++] = r->argv[i];
    argv[n] = NULL;
    setpgid(0, 0);
    int out = w->verbose ? STDERR_FILENO : w->log;
    for (size_t i = 0; i < 3; i++)
        signal(signals[i], SIG_DFL);
    if (fchdir(w->fd) == 0 && dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0)
        execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(127);
}

/* The end of what a tool wrote since `from`, at most TAIL bytes of it shown. */
static const char *last_words(const struct image_work *w, off_t from, char text[TAIL + 1], bool *full)
{
    static char all[16384];
    off_t end = lseek(w->log, 0, SEEK_END);
    off_t at = end - from >= (off_t)sizeof all ? end - (off_t)sizeof all + 1 : from;
    ssize_t n = end > at ? pread(w->log, all, (size_t)(end - at), at) : 0;
    all[n > 0 ? n : 0] = 0;
    *full = strstr(all, strerror(ENOSPC)) || strstr(all, strerror(EDQUOT));
    while (n > 0 && all[n - 1] == '\n')
        all[--n] = 0;
    const char *say = n > TAIL ? all + n - TAIL : all;
    if (say > all && strchr(say, '\n'))
        say = strchr(say, '\n') + 1;
    snprintf(text, TAIL + 1, "%.*s", TAIL, say);
    return text;
}

static int failed(const struct image_work *w, const char *tool, int status, off_t from, struct fy_err *e)
{
    char text[TAIL + 1], folder[PATH_MAX];
    struct statvfs fs;
    bool full;
    const char *say = last_words(w, from, text, &full);
    if (fstatvfs(w->parent, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < FULL)
        full = true;
    snprintf(folder, sizeof folder, "%s", w->dir);
    if (full)
        return fy_fail(e, FY_ERESOURCE,
                       "the disk of %s is full: %s ended early (free some space, or choose another folder)",
                       dirname(folder), tool);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return fy_fail(e, FY_EUNSUPPORTED, "cannot run %s", tool);
    if (WIFSIGNALED(status))
        return fy_fail(e, FY_EFAIL, "%s was ended by signal %d", tool, WTERMSIG(status));
    return fy_fail(e, FY_EFAIL, "%s failed%s%s", tool, *say ? "; it ended with:\n" : "", say);
}

/* Wait for the tool, then for all that it started: none may go on in a folder that is to be removed. */
static int await_tool(pid_t pid)
{
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    kill(-pid, SIGKILL);
    while (waitpid(-pid, NULL, 0) > 0 || errno == EINTR) {
    }
    return status;
}

int image_run(struct image_work *w, const struct image_run *r, struct fy_err *e)
{
    int status = 0;
    int in = stdin_of(r);
    if (in < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot run %s", r->argv[0]);
    off_t from = lseek(w->log, 0, SEEK_END);
    sigset_t block, old;
    sigemptyset(&block);
    for (size_t i = 0; i < 3; i++)
        sigaddset(&block, signals[i]);
    sigprocmask(SIG_BLOCK, &block, &old);
    pid_t pid = stopped ? 0 : fork();
    if (pid == 0 && !stopped) {
        sigprocmask(SIG_SETMASK, &old, NULL);
        exec_tool(w, r, in);
    }
    if (pid > 0)
        setpgid(pid, pid);
    child = pid;
    sigprocmask(SIG_SETMASK, &old, NULL);
    int err = errno;
    fy_close(&in);
    if (pid < 0)
        return fy_fail_errno(e, FY_ERESOURCE, err, "cannot run %s", r->argv[0]);
    if (pid > 0)
        status = await_tool(pid);
    child = 0;
    if (stopped)
        return fy_fail(e, FY_ECANCELLED, "cancelled");
    return status ? failed(w, r->argv[0], status, from, e) : 0;
}

static bool is_there(const char *file)
{
    char path[PATH_MAX];
    if (*file == '/')
        return access(file, R_OK) == 0;
    const char *folders = getenv("PATH");
    for (const char *p = folders ? folders : ""; *p;) {
        size_t n = strcspn(p, ":");
        if (snprintf(path, sizeof path, "%.*s/%s", (int)n, p, file) < (int)sizeof path &&
            access(path, X_OK) == 0)
            return true;
        p += n + (p[n] == ':');
    }
    return false;
}

int image_need(const struct image_tool *tools, struct fy_err *e)
{
    char lack[256] = "", packages[256] = "";
    size_t n = 0, m = 0;
    for (const struct image_tool *t = tools; t->file; t++) {
        if (is_there(t->file))
            continue;
        n += (size_t)snprintf(lack + n, sizeof lack - n, "%s%s", n ? ", " : "", t->file);
        if (!strstr(packages, t->package))
            m += (size_t)snprintf(packages + m, sizeof packages - m, " %s", t->package);
        if (n >= sizeof lack || m >= sizeof packages)
            break;
    }
    if (!n)
        return 0;
    return fy_fail(e, FY_EUNSUPPORTED, "%s %s not installed (apt-get install%s)", lack,
                   strchr(lack, ',') ? "are" : "is", packages);
}
