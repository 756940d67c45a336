// The verilated bench top behind a C interface, for harness/lean/design.py. One design for each process.
//
// ports.inc lists the ports but for the clock, as PORT(name). Python reads and writes them in place: a port of
// any width is its bytes, lowest first, because Verilator keeps it as one little-endian integer or as an
// array of 32-bit words, the lowest first. Bits above the width of a port must be written as 0.

#include <cstring>
#include <type_traits>

#include "Vtop.h"
#include "verilated.h"

namespace {

struct Port {
    const char* name;
    void* bytes;
    unsigned size;
};

VerilatedContext context;
Vtop top{&context};
std::remove_reference_t<decltype(top.obs)> seen;  // the observation of the last cycle

#define PORT(port) {#port, &top.port, sizeof top.port},
const Port ports[] = {
#include "ports.inc"
    {nullptr, nullptr, 0},
};
#undef PORT

void cycle() {
    top.clk = 0;  // with the inputs that Python wrote: everything settles before the edge that samples it
    top.eval();
    top.clk = 1;
    top.eval();
}

}  // namespace

extern "C" {

// The ports, up to one without a name.
const Port* twodim_ports() { return ports; }

// Ends up to `count` cycles with the present inputs, but none after one that changed the observation. Returns
// how many kept it: `count`, or less, and then one more has ended and changed it.
unsigned twodim_run(unsigned count) {
    std::memcpy(&seen, &top.obs, sizeof seen);
    for (unsigned kept = 0; kept < count; ++kept) {
        cycle();
        if (std::memcmp(&seen, &top.obs, sizeof seen)) return kept;
    }
    return count;
}
}
