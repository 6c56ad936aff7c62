/* sensors.c: reads a GPU's power, clock, temperature and throttle reasons by NVML, a library of the driver. It is
 * loaded when the sensors are first read; if it or a function is missing, values are not known. Its header is not used,
 * since it comes in a separate package. NVML has had these functions since version 5. */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda_backend.h"

/* NVML's constants. */
enum { NVML_SUCCESS = 0, NVML_TEMPERATURE_GPU = 0, NVML_CLOCK_SM = 1 };
typedef struct nvmlDevice_st *NvmlDevice;

struct CudaSensors {
    void *library;
    bool is_open;
    NvmlDevice device;
    int (*shutdown)(void);
    int (*power)(NvmlDevice, unsigned *milliwatts);
    int (*clock)(NvmlDevice, int which, unsigned *mhz);
    int (*temperature)(NvmlDevice, int which, unsigned *celsius);
    int (*throttle_reasons)(NvmlDevice, unsigned long long *mask);
};

/* NVML's bits nvmlClocksThrottleReason... (its API reference, "nvmlClocksEventReasons"). */
enum {
    SW_POWER_CAP = 0x4,
    HW_SLOWDOWN = 0x8,
    SYNC_BOOST = 0x10,
    SW_THERMAL_SLOWDOWN = 0x20,
    HW_THERMAL_SLOWDOWN = 0x40,
    HW_POWER_BRAKE_SLOWDOWN = 0x80
};

/* Reasons that slow a GPU down. NVML's bits for an idle GPU and for clocks that its owner set are left out. */
static const struct {
    unsigned long long mask;
    const char *name;
} reasons[] = {{SW_POWER_CAP, "power cap"},
               {HW_SLOWDOWN, "hardware slowdown"},
               {SYNC_BOOST, "sync boost"},
               {SW_THERMAL_SLOWDOWN | HW_THERMAL_SLOWDOWN, "thermal"},
               {HW_POWER_BRAKE_SLOWDOWN, "power brake"}};

/* Stores the address of NVML's function `name`, or NULL, in *function, which is a function pointer. */
static void find(CudaSensors *s, const char *name, void *function) {
    void *address = s->library ? dlsym(s->library, name) : NULL;
    memcpy(function, &address, sizeof address);
}

/* Identifies the GPU by its PCI bus ID, since device numbers depend on CUDA_VISIBLE_DEVICES. */
static CudaSensors *sensors_open(int gpu) {
    CudaSensors *s = checked_calloc(1, sizeof *s, "the GPU's sensors");
    char bus[32];
    int (*init)(void), (*by_bus)(const char *, NvmlDevice *);
    cuda_check(cudaDeviceGetPCIBusId(bus, sizeof bus, gpu), "asking for the GPU's place");
    s->library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    find(s, "nvmlInit_v2", &init);
    find(s, "nvmlDeviceGetHandleByPciBusId_v2", &by_bus);
    find(s, "nvmlShutdown", &s->shutdown);
    s->is_open = init && by_bus && s->shutdown && init() == NVML_SUCCESS;
    if (!s->is_open || by_bus(bus, &s->device) != NVML_SUCCESS) return s;
    find(s, "nvmlDeviceGetPowerUsage", &s->power);
    find(s, "nvmlDeviceGetClockInfo", &s->clock);
    find(s, "nvmlDeviceGetTemperature", &s->temperature);
    find(s, "nvmlDeviceGetCurrentClocksThrottleReasons", &s->throttle_reasons);
    return s;
}

void cuda_sensors_close(CudaSensors *s) {
    if (!s) return;
    if (s->is_open) s->shutdown();
    if (s->library) dlclose(s->library);
    free(s);
}

static void list_reasons(unsigned long long mask, char *text, size_t size) {
    text[0] = 0;
    for (size_t i = 0; i < ARRAY_LENGTH(reasons); i++)
        if (mask & reasons[i].mask) {
            size_t used = strlen(text);
            snprintf(text + used, size - used, "%s%s", used ? ", " : "", reasons[i].name);
        }
}

bool cuda_read_sensors(Backend *be, DeviceSensors *sensors) {
    CudaBackend *cuda = cuda_backend(be);
    if (!cuda->sensors) cuda->sensors = sensors_open(cuda->gpu);
    const CudaSensors *s = cuda->sensors;
    unsigned milliwatts, mhz, celsius;
    unsigned long long mask;
    *sensors = (DeviceSensors){.watts = NAN, .mhz = NAN, .celsius = NAN};
    if (s->power && s->power(s->device, &milliwatts) == NVML_SUCCESS) sensors->watts = milliwatts * 1e-3;
    if (s->clock && s->clock(s->device, NVML_CLOCK_SM, &mhz) == NVML_SUCCESS) sensors->mhz = mhz;
    if (s->temperature && s->temperature(s->device, NVML_TEMPERATURE_GPU, &celsius) == NVML_SUCCESS)
        sensors->celsius = celsius;
    sensors->has_throttle = s->throttle_reasons && s->throttle_reasons(s->device, &mask) == NVML_SUCCESS;
    if (sensors->has_throttle) list_reasons(mask, sensors->throttle, sizeof sensors->throttle);
    return true;
}
