/* The control of the attacks: a runtime that does everything the naive way. Its arguments are steps, done in order, so
 * that each control reads as the short program that it is. Paths are joined as strings and followed by name, nothing
 * is closed, nothing is hidden, nothing is looked at twice: what each of our defences guards against works here. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

static char root[PATH_MAX];

static void die(const char *what, const char *on) {
    fprintf(stderr, "naive: %s %s: %s\n", what, on, strerror(errno));
    exit(9);
}

#define CHECK(call, on) do { if ((call) < 0) die(#call, on); } while (0)

static char *in_root(const char *path) {
    char *joined;
    if (asprintf(&joined, "%s/%s", root, path) < 0) die("join", path);
    return joined;
}

static void make_directories(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0755);
        *slash = '/';
    }
    if (mkdir(path, 0755) < 0 && errno != EEXIST) die("mkdir", path);
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    CHECK(fd, path);
    CHECK(write(fd, text, strlen(text)), path);
    close(fd);
}

static void as_child(void) {
    pid_t child = fork();
    CHECK(child, "fork");
    if (child == 0) return;
    int status;
    waitpid(child, &status, 0);
    exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static int namespaces(const char *letters) {
    int flags = 0;
    for (; *letters; letters++)
        flags |= *letters == 'm' ? CLONE_NEWNS : *letters == 'p' ? CLONE_NEWPID : *letters == 'u' ? CLONE_NEWUTS
               : *letters == 'i' ? CLONE_NEWIPC : *letters == 'n' ? CLONE_NEWNET : CLONE_NEWCGROUP;
    return flags;
}

static void enter_namespaces(int flags) {
    CHECK(unshare(flags), "namespaces");
    if (flags & CLONE_NEWNS) CHECK(mount(0, "/", 0, MS_REC | MS_PRIVATE, 0), "/");
    if (flags & CLONE_NEWPID) as_child();
}

/* Both ends of a message whose lengths have 16 bits: what is longer shows through as the next attribute. */
static int flags_by_message(int flags, const char *file) {
    static unsigned char message[1 << 20];
    struct { uint16_t type, length; } head;
    int fd = open(file, O_RDONLY);
    CHECK(fd, file);
    ssize_t length = read(fd, message + sizeof head, sizeof message - 64);
    CHECK(length, file);
    head.type = 2;
    head.length = (uint16_t)length;
    memcpy(message, &head, sizeof head);
    unsigned char *at = message + sizeof head + length, *end;
    head.type = 1;
    head.length = sizeof flags;
    memcpy(at, &head, sizeof head);
    memcpy(at + sizeof head, &flags, sizeof flags);
    end = at + sizeof head + sizeof flags;
    int read_flags = 0, found = 0;
    for (at = message; at < end && !found; at += sizeof head + head.length) {
        memcpy(&head, at, sizeof head);
        if (head.type == 1) memcpy(&read_flags, at + sizeof head, sizeof read_flags), found = 1;
    }
    return read_flags;
}

static void set_capabilities(uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        data[i].effective = data[i].permitted = (uint32_t)(permitted >> (32 * i));
        data[i].inheritable = (uint32_t)(inheritable >> (32 * i));
    }
    for (int n = 0; n < 64; n++)
        if (!(permitted >> n & 1)) prctl(PR_CAPBSET_DROP, n, 0, 0, 0);
    CHECK(syscall(SYS_capset, &head, data), "capabilities");
}

/* mkdir fails with 77; but whose mkdir is not looked at. */
static void filter(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 83, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof code / sizeof *code, code };
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), "seccomp");
}

/* `a=1+b=2`, each value to where its name says. */
static void parameters(const char *proc_sys, char *text) {
    for (char *one = strtok(text, "+"); one; one = strtok(NULL, "+")) {
        char *value = strchr(one, '='), path[PATH_MAX];
        if (!value) continue;
        *value++ = 0;
        for (char *c = one; *c; c++)
            if (*c == '.') *c = '/';
        snprintf(path, sizeof path, "%s/%s", proc_sys, one);
        put(path, value);
    }
}

static void join(const char *pid) {
    static const char *names[] = { "ipc", "uts", "net", "cgroup", "pid", "mnt" };
    int fds[6];
    for (int i = 0; i < 6; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, names[i]);
        fds[i] = open(path, O_RDONLY | O_CLOEXEC);
        CHECK(fds[i], path);
    }
    for (int i = 0; i < 6; i++) CHECK(setns(fds[i], 0), names[i]);
    as_child();
}

static void pause_at(const char *file) {
    char reached[PATH_MAX];
    snprintf(reached, sizeof reached, "%s.reached", file);
    CHECK(open(reached, O_CREAT | O_WRONLY, 0600), reached);
    for (int i = 0; i < 10000 && access(file, F_OK); i++) usleep(1000);
}

int main(int count, char **args) {
    for (int i = 1; i < count; i++) {
        const char *step = args[i];
        char *one = i + 1 < count ? args[i + 1] : "", *two = i + 2 < count ? args[i + 2] : "";
        char *three = i + 3 < count ? args[i + 3] : "";
        struct stat stat;
        if (!strcmp(step, "unshare")) {
            enter_namespaces(namespaces(one));
            i += 1;
        } else if (!strcmp(step, "unshare-by-message")) {
            int flags = flags_by_message(namespaces(one), two);
            if (flags) enter_namespaces(flags);
            i += 2;
        } else if (!strcmp(step, "join")) {
            join(one);
            i += 1;
        } else if (!strcmp(step, "root")) {
            CHECK(mount(one, one, 0, MS_BIND | MS_REC, 0), one);
            if (!realpath(one, root)) die("realpath", one);
            i += 1;
        } else if (!strcmp(step, "directories")) {
            make_directories(in_root(one));
            i += 1;
        } else if (!strcmp(step, "file")) {
            CHECK(open(in_root(one), O_CREAT | O_WRONLY, 0644), one);
            i += 1;
        } else if (!strcmp(step, "is-inside")) {
            char real[PATH_MAX];
            if (!realpath(in_root(one), real) || strncmp(real, root, strlen(root))) die("is not inside", one);
            i += 1;
        } else if (!strcmp(step, "is-device")) {
            if (lstat(one, &stat) < 0 || !S_ISCHR(stat.st_mode)) die("is no device", one);
            i += 1;
        } else if (!strcmp(step, "pause")) {
            pause_at(one);
            i += 1;
        } else if (!strcmp(step, "mount")) {
            int bind = !strcmp(one, "bind") ? MS_BIND | MS_REC : 0;
            CHECK(mount(two, in_root(three), one, bind, 0), three);
            i += 3;
        } else if (!strcmp(step, "bind")) {
            CHECK(mount(one, two, 0, MS_BIND, 0), two);
            i += 2;
        } else if (!strcmp(step, "node")) {
            CHECK(mknod(in_root(one), S_IFCHR | 0666, makedev(1, 3)), one);
            i += 1;
        } else if (!strcmp(step, "enter")) {
            CHECK(chdir(root), root);
            CHECK(chroot("."), root);
            CHECK(chdir("/"), "/");
        } else if (!strcmp(step, "own-null")) {
            int null = open("/dev/null", O_RDWR | O_CREAT, 0666);
            CHECK(null, "/dev/null");
            CHECK(fchown(null, atoi(one), -1), "/dev/null");
            i += 1;
        } else if (!strcmp(step, "write")) {
            put(one, two);
            i += 2;
        } else if (!strcmp(step, "read")) {
            char buffer[4096];
            int fd = open(one, O_RDONLY);
            CHECK(fd, one);
            while (read(fd, buffer, sizeof buffer) > 0) {}
            i += 1;
        } else if (!strcmp(step, "leak")) {
            CHECK(open(one, O_RDONLY | O_DIRECTORY), one);
            i += 1;
        } else if (!strcmp(step, "cwd")) {
            CHECK(chdir(one), one);
            i += 1;
        } else if (!strcmp(step, "capabilities")) {
            set_capabilities(strtoull(one, 0, 16), strtoull(two, 0, 16));
            i += 2;
        } else if (!strcmp(step, "user")) {
            /* `UID:GID`; whatever is not that is 0. */
            unsigned uid = 0, gid = 0;
            if (sscanf(one, "%u:%u", &uid, &gid) != 2) uid = gid = 0;
            CHECK(setgid(gid), one);
            CHECK(setuid(uid), one);
            i += 1;
        } else if (!strcmp(step, "filter")) {
            filter();
        } else if (!strcmp(step, "parameters")) {
            parameters(one, two);
            i += 2;
        } else if (!strcmp(step, "state")) {
            snprintf(root, sizeof root, "%s/%s", one, two);
            CHECK(mkdir(root, 0700), root);
            i += 2;
        } else if (!strcmp(step, "mounts")) {
            char command[PATH_MAX];
            snprintf(command, sizeof command, "cat /proc/self/mountinfo > '%s'", one);
            CHECK(system(command), one);
            i += 1;
        } else if (!strcmp(step, "exec")) {
            execv(one, args + i + 1);
            die("exec", one);
        } else {
            errno = EINVAL;
            die("step", step);
        }
    }
    return 0;
}
