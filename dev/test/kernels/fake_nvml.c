/* fake_nvml.c: a library for tests in the place of NVML (libnvidia-ml.so.1), whose values the environment gives:
 *
 *   FAKE_NVML_BUS=text       the GPU's place on the bus; without it every place is the GPU's
 *   FAKE_NVML_INIT=status    of nvmlInit_v2(), 0 without it
 *   FAKE_NVML_POWER=n        milliwatts; likewise FAKE_NVML_CLOCK, _TEMPERATURE and _REASONS (a mask). A function without
 *                            its variable fails */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6 };

static int is_initialized;
static char gpu;

int nvmlInit_v2(void);
int nvmlShutdown(void);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device);
int nvmlDeviceGetPowerUsage(const void *device, unsigned *milliwatts);
int nvmlDeviceGetClockInfo(const void *device, int which, unsigned *mhz);
int nvmlDeviceGetTemperature(const void *device, int which, unsigned *celsius);
int nvmlDeviceGetCurrentClocksThrottleReasons(const void *device, unsigned long long *mask);

static int answer(const void *device, const char *variable, unsigned long long *value) {
    const char *text = getenv(variable);
    if (!is_initialized || device != &gpu || !text) return NOT_SUPPORTED;
    *value = strtoull(text, NULL, 0);
    return SUCCESS;
}

static int answer_unsigned(const void *device, const char *variable, unsigned *value) {
    unsigned long long wide;
    int status = answer(device, variable, &wide);
    if (status == SUCCESS) *value = (unsigned)wide;
    return status;
}

int nvmlInit_v2(void) {
    const char *status = getenv("FAKE_NVML_INIT");
    is_initialized = !status;
    return status ? atoi(status) : SUCCESS;
}

int nvmlShutdown(void) {
    if (!is_initialized) abort();
    return SUCCESS;
}

int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
    const char *place = getenv("FAKE_NVML_BUS");
    if (place && strcmp(place, bus) != 0) return NOT_FOUND;
    *device = &gpu;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(const void *device, unsigned *milliwatts) {
    return answer_unsigned(device, "FAKE_NVML_POWER", milliwatts);
}

/* Of the multiprocessors, number 1, alone. */
int nvmlDeviceGetClockInfo(const void *device, int which, unsigned *mhz) {
    return which == 1 ? answer_unsigned(device, "FAKE_NVML_CLOCK", mhz) : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(const void *device, int which, unsigned *celsius) {
    return which == 0 ? answer_unsigned(device, "FAKE_NVML_TEMPERATURE", celsius) : NOT_SUPPORTED;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(const void *device, unsigned long long *mask) {
    return answer(device, "FAKE_NVML_REASONS", mask);
}
