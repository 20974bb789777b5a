/* Tries what the kernel makes of credentials. Two programs in one, static, so that it runs anywhere:

   show                    prints its own credentials (execve ends here)
   try  <file of cases     for each line: forks, takes the credentials of the line, executes the
                           program named in it; a failed execve prints "errno N"
   act  NSPATH|- UID CAPS PID...   joins a user namespace, becomes UID with CAPS, and prints for
                           each PID whether kill, setpriority and prlimit are allowed; then waits */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

typedef unsigned long long set;

static void capset_or_die(set effective, set permitted, set inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {effective, permitted, inheritable},
        {effective >> 32, permitted >> 32, inheritable >> 32}};
    if (syscall(SYS_capset, &header, data)) { printf("capset %d\n", errno); exit(9); }
}

static void check(int result, const char *what) {
    if (result) { printf("%s %d\n", what, errno); exit(9); }
}

static int show(void) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2];
    uid_t r, e, s, gr, ge, gs;
    set bounding = 0, ambient = 0;
    syscall(SYS_capget, &header, d);
    getresuid(&r, &e, &s);
    getresgid(&gr, &ge, &gs);
    for (int c = 0; c < 63; c++) {
        if (prctl(PR_CAPBSET_READ, c) == 1) bounding |= 1ULL << c;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, c, 0, 0) == 1) ambient |= 1ULL << c;
    }
    printf("ok %u %u %u %u %u %u %llx %llx %llx %llx %llx %x %d\n", r, e, s, gr, ge, gs,
           d[0].inheritable | (set)d[1].inheritable << 32, d[0].permitted | (set)d[1].permitted << 32,
           d[0].effective | (set)d[1].effective << 32, bounding, ambient,
           prctl(PR_GET_SECUREBITS), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    return 0;
}

static void become(char *line) {
    unsigned r, e, s, gr, ge, gs, bits, nnp;
    set inh, per, eff, bnd, amb;
    char path[1024];
    if (sscanf(line, "%u %u %u %u %u %u %llx %llx %llx %llx %llx %x %u %1023s", &r, &e, &s, &gr,
               &ge, &gs, &inh, &per, &eff, &bnd, &amb, &bits, &nnp, path) != 14) exit(8);
    /* While ids change, the sets shall not. */
    check(prctl(PR_SET_SECUREBITS, 1 << 2), "securebits");
    check(setgroups(0, NULL), "setgroups");
    check(setresgid(gr, ge, gs), "setresgid");
    check(setresuid(r, e, s), "setresuid");
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct now[2];
    syscall(SYS_capget, &header, now);
    set all = now[0].permitted | (set)now[1].permitted << 32;
    capset_or_die(all, all, inh);
    for (int c = 0; c < 63; c++)
        if (!(bnd >> c & 1) && prctl(PR_CAPBSET_READ, c) == 1)
            check(prctl(PR_CAPBSET_DROP, c), "bounding");
    for (int c = 0; c < 63; c++)
        if (amb >> c & 1) check(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0), "ambient");
    check(prctl(PR_SET_SECUREBITS, bits), "securebits");
    if (nnp) check(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs");
    capset_or_die(eff, per, inh);
    char *arguments[] = {"show", NULL};
    execve(path, arguments, arguments + 1);
    printf("errno %d\n", errno);
    exit(0);
}

static int act(int count, char **words) {
    uid_t uid = atoi(words[1]);
    set mask = strtoull(words[2], NULL, 16);
    if (strcmp(words[0], "-")) {
        int fd = open(words[0], O_RDONLY);
        check(fd < 0 ? -1 : setns(fd, CLONE_NEWUSER), "setns");
    }
    check(prctl(PR_SET_SECUREBITS, 1 << 2), "securebits");
    check(setresgid(uid, uid, uid), "setresgid");
    check(setresuid(uid, uid, uid), "setresuid");
    capset_or_die(mask, mask, 0);
    for (int n = 3; n < count; n++) {
        pid_t pid = atoi(words[n]);
        errno = 0;
        int priority = getpriority(PRIO_PROCESS, pid);
        printf("%d%d%d ", kill(pid, 0) == 0, setpriority(PRIO_PROCESS, pid, priority) == 0,
               prlimit(pid, RLIMIT_CORE, NULL, NULL) == 0);
    }
    printf("\n");
    fflush(stdout);
    pause();
    return 0;
}

int main(int count, char **words) {
    char line[2048];
    if (count < 2) return show();
    if (!strcmp(words[1], "act")) return act(count - 2, words + 2);
    while (fgets(line, sizeof line, stdin)) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) become(line);
        waitpid(child, NULL, 0);
    }
    return 0;
}
