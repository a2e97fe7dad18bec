// Around the equations of lif.cpp: what a call reads and writes, the walk over a layer's neurons, and sums over them.
//
// A step is `rows` runs of `run` neighbouring values. FLAT: the LIF alone, one run. With a norm in front,
// CHANNELS_FIRST: a run is one channel of one sample, CHANNELS_LAST: a run is all channels of one position.

#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#else
// A compiler without OpenMP passes over its pragmas: one thread does all parts.
inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
#endif

#include "lif_vector.h"

enum Layout { FLAT, CHANNELS_FIRST, CHANNELS_LAST };
constexpr int T = TIMESTEPS;
using Value = VALUE;
using Bits = std::conditional_t<T <= 8, uint8_t, std::conditional_t<T <= 16, int16_t, int32_t>>;

// backend.py packs it field by field. What is absent is null.
struct Call {
  int64_t rows, run, channels;
  int32_t threads, constant;                // constant: x and shortcut have one step, shown T times
  float gamma, eps, share;
  const Value *go, *x, *shortcut;           // (T, ...), (T or 1, ...)
  const float *u_init, *v_threshold, *leak;
  const float *norm[4], *shortcut_norm[4];  // mean, var, weight, bias, each (channels)
  Value* o;
  Bits* spikes;
  float* u_sum;
  int64_t* active_count;
  float* table;                             // of each norm rows mean, scale, shift, invstd (4, channels); by forward
  float* k;                                 // of each norm rows k1, k0 (2, channels), see statistics_rows; by backward
  float *gweight, *gbias, *gweight2;        // (channels)
  float* gscalars;                          // of u_init, v_threshold, leak
  Value *gx, *gshortcut;
  float* g;                                 // dL/d(current), of the shape of x, with a norm; by backward

  int64_t size() const { return rows * run; }
  int norms() const { return shortcut_norm[0] ? 2 : 1; }
};

// So many vectors go through the equations side by side: each waits for its own step before, not for the other's.
template <int N> using Width = std::integral_constant<int, N>;

// Calls body(width, row, column, n) for every vector of a thread's part, n values from there on, or for a pair of them
// with the same channels: neighbours in their run, or in CHANNELS_LAST of neighbouring runs. end(row) ends every run.
template <Layout L, class Body, class End>
ALWAYS void sweep(const Call& c, int thread, int threads, Body body, End end) {
  // Whole vectors apart from the last one, so that the compiler need not think of a part of one in each.
  const auto along = [&](auto width, int64_t row, int64_t i, int64_t last) INLINED {
    for (; i + LANES <= last; i += LANES) body(width, row, i, LANES);
    if (i < last) body(width, row, i, int(last - i));
  };
  const auto in_pairs = [&](int64_t row, int64_t i, int64_t last) INLINED {
    for (; i + 2 * LANES <= last; i += 2 * LANES) body(Width<2>{}, row, i, LANES);
    along(Width<1>{}, row, i, last);
  };
  const auto part = [&](int64_t count, int t) { return count * t / threads; };
  if constexpr (L == FLAT) {
    const int64_t vectors = (c.run + LANES - 1) / LANES;
    in_pairs(0, part(vectors, thread) * LANES, std::min(c.run, part(vectors, thread + 1) * LANES));
  }
  if constexpr (L == CHANNELS_FIRST)
    for (int64_t row = part(c.rows, thread); row < part(c.rows, thread + 1); ++row) {
      in_pairs(row, 0, c.run);
      end(row);
    }
  if constexpr (L == CHANNELS_LAST) {
    int64_t row = part(c.rows, thread);
    const int64_t last = part(c.rows, thread + 1);
    for (; row + 2 <= last; row += 2) {
      along(Width<2>{}, row, 0, c.run);
      end(row);
      end(row + 1);
    }
    if (row < last) {
      along(Width<1>{}, row, 0, c.run);
      end(row);
    }
  }
}

// Calls part(c, thread, threads, sums) on every thread, each with sums in memory of its own, and returns those of all.
// Which values meet in a sum depends on the number of threads alone.
template <class Found, class Part> Found share_out(const Call& c, Part part) {
  if (c.threads <= 1) {
    Found sums(c);
    part(c, 0, 1, sums);
    return sums;
  }
  std::vector<std::unique_ptr<Found>> of_threads(c.threads);
#pragma omp parallel num_threads(c.threads)
  {
    Found sums(c);
    part(c, omp_get_thread_num(), omp_get_num_threads(), sums);
    of_threads[omp_get_thread_num()] = std::make_unique<Found>(sums);
  }
  for (int i = 1; i < c.threads; ++i)
    if (of_threads[i]) *of_threads[0] += *of_threads[i];
  return *of_threads[0];
}

// Adds up vectors: float32 within a block, float64 between blocks.
struct Sum {
  Vec block{};
  double total = 0;
  int held = 0;

  ALWAYS void add(Vec x) {
    block = block + x;
    if (++held == 64) flush();
  }
  ALWAYS void flush() {
    for (int lane = 0; lane < LANES; ++lane) total += block[lane];
    block = Vec{};
    held = 0;
  }
  double value() {
    flush();
    return total;
  }
  void operator+=(Sum& other) { total += other.value(); }
};

// What MP-Init asks of the active neurons: the sum of their membranes, and their number.
struct Active {
  Sum u;
  int64_t count = 0;

  explicit Active(const Call&) {}
  void operator+=(Active& other) {
    u += other.u;
    count += other.count;
  }
};

// The gradients of the scalars.
struct Scalars {
  Sum u_init, v_threshold, leak;

  explicit Scalars(const Call&) {}
  void operator+=(Scalars& other) {
    u_init += other.u_init;
    v_threshold += other.v_threshold;
    leak += other.leak;
  }
  void write(float* to) {
    to[0] = float(u_init.value());
    to[1] = float(v_threshold.value());
    to[2] = float(leak.value());
  }
};

// Per channel the sums of g, of g * (y - mean), and of g * (shortcut - its mean).
struct Channels {
  int64_t channels, padded;
  std::vector<float> block;
  std::vector<double> total;

  explicit Channels(const Call& c)
      : channels(c.channels), padded(channels + LANES), block(3 * padded), total(3 * channels) {}
  // CHANNELS_LAST: to a vector of channels from `column` on. CHANNELS_FIRST: column 0, all lanes to one channel.
  ALWAYS void add(int which, int64_t column, Vec x) {
    float* at = block.data() + which * padded + column;
    store(at, load(at, LANES) + x, LANES);
  }
  void flush(Layout layout, int64_t channel) {
    for (int which = 0; which < 3; ++which) {
      float* at = block.data() + which * padded;
      double* to = total.data() + which * channels;
      if (layout == CHANNELS_LAST)
        for (int64_t i = 0; i < channels; ++i) to[i] += at[i];
      else
        for (int lane = 0; lane < LANES; ++lane) to[channel] += at[lane];
      std::fill(at, at + (layout == CHANNELS_LAST ? channels : LANES), 0.f);
    }
  }
  void operator+=(Channels& other) {
    std::transform(total.begin(), total.end(), other.total.begin(), total.begin(), std::plus<>());
  }
};

// What a backward sums up; of channels nothing without a norm.
struct Sums {
  Channels channels;
  Scalars scalars;

  explicit Sums(const Call& c) : channels(c), scalars(c) {}
  void operator+=(Sums& other) {
    channels += other.channels;
    scalars += other.scalars;
  }
};

struct Nothing {
  explicit Nothing(const Call&) {}
  void operator+=(Nothing&) {}
};
