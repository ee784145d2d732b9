// The description of a rule, without its arithmetic. The rules are in rules.h and steps.h, which engine/write_rules.py
// writes at build time from the declarations of adamas.rule.
#pragma once

namespace adamas {

// A state tensor of a rule; see adamas.rule.declaration.State.
struct State {
    bool is_signed;
    bool is_dithered; // whether its 8-bit codes are rounded with random numbers
    int draw;         // the index of its random numbers; -1: rounded to the nearest
    int decay;        // the constant that multiplies it at every step; -1: none
    int second;       // the second moment, whose grids a signed state takes; -1: none
    bool counts;      // whether its own elements count in the choice of a grid, too
};

struct Rule {
    const char *name;
    const State *states;
    const unsigned *terms;         // for each sum the slots of the tensors that its terms depend on, one bit each
    int state_count, number_count; // the numbers of a step begin with those that all rules have
    int sum_count;                 // the last is the share that the masked update agrees with, 1 in other steps
    int watched, first, second;    // the kind of its statistics, and the indices of m and v among its states; -1: none
    // Computes the constants of the loops from the numbers of a step, followed by the sums. With penalties, the loops
    // get gradients that are already scaled.
    void (*fold)(const double *numbers, bool penalized, double *constants);
};

} // namespace adamas
