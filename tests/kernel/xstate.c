/*
 * Lets User-Mode Linux run on processors with AMX.
 *
 * The UML kernel keeps a process's extended registers in a buffer of fixed size (2,696 bytes in Debian 12)
 * and writes them back with PTRACE_SETREGSET.  A host kernel takes only a whole register set, and with AMX
 * the whole is 11,008 bytes: every write fails with EFAULT and the guest panics before its first process
 * runs.
 *
 * Preloaded into UML, this ptrace() completes such a short set with what the process holds now.  The part UML
 * cannot name is AMX tile state; nobody in a guest can have any, since it must be asked for with
 * arch_prctl().  All other requests go to the C library unchanged.  UML calls ptrace() from one thread, so
 * one buffer is enough.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>

#define GET_REGISTER_SET 0x4204
#define SET_REGISTER_SET 0x4205
#define EXTENDED_STATE 0x202

long ptrace(int request, ...)
{
    static long (*libc_ptrace)(int, ...);
    static char registers[1 << 16];
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);

    if (!libc_ptrace)
        libc_ptrace = (long (*)(int, ...))dlsym(RTLD_NEXT, "ptrace");

    if (request == SET_REGISTER_SET && address == (void *)EXTENDED_STATE) {
        const struct iovec *given = data;
        struct iovec whole = {registers, sizeof registers};
        if (libc_ptrace(GET_REGISTER_SET, pid, address, &whole) == 0 && given->iov_len < whole.iov_len) {
            memcpy(registers, given->iov_base, given->iov_len);
            return libc_ptrace(request, pid, address, &whole);
        }
    }
    return libc_ptrace(request, pid, address, data);
}
