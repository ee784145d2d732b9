// What the engine knows of a rule beside its arithmetic. The rules themselves are in rules.h and steps.h, which
// engine/write_rules.py writes at build time from the declarations of adamas.rule.
#pragma once

namespace adamas {

// A tensor that a rule keeps, as adamas.rule.declaration.State.
struct State {
    bool is_signed;
    bool is_dithered; // how 8-bit codes are rounded
    int draw;         // the index of its random numbers; -1: rounded to the nearest
    int decay;        // the constant that multiplies it at every step; -1: none
};

struct Rule {
    const char *name;
    const State *states;
    int state_count, number_count; // of the numbers of a step, those of the house are the first
    // From the numbers of a step to the constants of the loops. With penalties, the loops are given gradients that are
    // scaled already.
    void (*fold)(const double *numbers, bool penalized, double *constants);
};

} // namespace adamas
