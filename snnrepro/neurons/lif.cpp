// The LIF layer on CPUs: the forward of reference.py, the backward of analytic.py, a vector of neurons at a time.
//
// Compiled once per set of rules (kernel_cache.py), with -DTIMESTEPS=4 -DFAMILY=TRSG -DSURROGATE=RECTANGULAR
// -DRESET=SOFT -DDETACH=0. Nothing of a window is kept but the input and one packed integer per neuron; the backward
// runs the membrane again, in registers. Compiled with -ffp-contract=off: every product is rounded, as torch does, so a
// membrane that is run again is the forward's, bit for bit, and the reference's.
//
// A step is `rows` runs of `run` neighbouring values. FLAT: the LIF alone, one run. With a norm in front, CHANNELS_FIRST:
// a run is one channel of one sample, CHANNELS_LAST: a run is all channels of one position.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <type_traits>
#include <vector>

#include <omp.h>

#include "lif_vector.h"

namespace {

enum Layout { FLAT, CHANNELS_FIRST, CHANNELS_LAST };
constexpr int T = TIMESTEPS;
using Bits = std::conditional_t<T <= 8, uint8_t, std::conditional_t<T <= 16, int16_t, int32_t>>;

// All that one call reads and writes; compiled.py mirrors it field by field. What is absent is null.
struct Call {
  int64_t rows, run, channels;
  int32_t threads, constant;  // constant: x and shortcut have one step, shown T times
  float gamma, eps, share;
  const void *go, *x, *shortcut;          // (T, ...), (T or 1, ...)
  const float *u_init, *v_threshold, *leak;
  const float *norm[4], *shortcut_norm[4];  // mean, var, weight, bias, each (channels)
  void *o, *spikes;
  float *u_sum;
  int64_t *active_count;
  float *table;      // per norm rows mean, scale, shift, invstd (4, channels); written by forward
  float *k;          // per norm rows k1, k0 (2, channels), see analytic.statistics_rows; written by reduce
  float *gweight, *gbias, *gshortcut_weight;  // (channels)
  float *gscalars;   // u_init, v_threshold, leak
  void *gx, *gshortcut;

  int64_t size() const { return rows * run; }
  int norms() const { return shortcut_norm[0] ? 2 : 1; }
};

// Adds up vectors: float32 within a block, float64 between blocks.
struct Sum {
  Vec block{};
  double total = 0;
  int held = 0;

  void add(Vec x) {
    block = block + x;
    if (++held == 64) flush();
  }
  void flush() {
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
  Sum u, count;
  explicit Active(const Call&) {}
  void operator+=(Active& other) {
    u += other.u;
    count += other.count;
  }
};

// Calls body(row, column, n) for every vector of a step, n values from there on, and end(row) after every run.
template <Layout L, class Body, class End>
ALWAYS void sweep(const Call& c, int thread, int threads, Body body, End end) {
  if constexpr (L == FLAT) {
    const int64_t vectors = (c.run + LANES - 1) / LANES;
    for (int64_t i = vectors * thread / threads; i < vectors * (thread + 1) / threads; ++i)
      body(0, i * LANES, int(std::min<int64_t>(LANES, c.run - i * LANES)));
  } else {
    for (int64_t row = c.rows * thread / threads; row < c.rows * (thread + 1) / threads; ++row) {
      for (int64_t i = 0; i < c.run; i += LANES) body(row, i, int(std::min<int64_t>(LANES, c.run - i)));
      end(row);
    }
  }
}

// Calls part(c, thread, threads, sums) on every thread, and returns the sums of all: which values meet in a sum depends on
// the number of threads alone. Each thread adds to sums of its own, in memory of its own.
template <class Sums, class Part> Sums share_out(const Call& c, Part part) {
  if (c.threads <= 1) {
    Sums sums(c);
    part(c, 0, 1, sums);
    return sums;
  }
  std::vector<std::unique_ptr<Sums>> of_threads(c.threads);
#pragma omp parallel num_threads(c.threads)
  {
    Sums sums(c);
    part(c, omp_get_thread_num(), omp_get_num_threads(), sums);
    of_threads[omp_get_thread_num()] = std::make_unique<Sums>(sums);
  }
  for (int i = 1; i < c.threads; ++i)
    if (of_threads[i]) *of_threads[0] += *of_threads[i];
  return *of_threads[0];
}

// Rows of a table of norms for one vector: one channel's value in every lane, or a value per channel.
template <Layout L> ALWAYS Vec per_channel(const Call& c, const float* row, int64_t at_row, int64_t column, int n) {
  if constexpr (L == CHANNELS_FIRST) return splat(row[at_row % c.channels]);
  return load(row + column, n);
}

// The current of a vector of neurons, and where it lies in a step.
template <Layout L, class D> struct Current {
  const Call& c;
  int64_t at;
  int n;
  Vec scale[2], shift[2];

  ALWAYS Current(const Call& c, int64_t row, int64_t column, int n) : c(c), at(row * c.run + column), n(n) {
    if constexpr (L != FLAT)
      for (int i = 0; i < c.norms(); ++i) {
        scale[i] = per_channel<L>(c, c.table + (4 * i + 1) * c.channels, row, column, n);
        shift[i] = per_channel<L>(c, c.table + (4 * i + 2) * c.channels, row, column, n);
      }
  }
  ALWAYS Vec read(const void* from, int t) const {
    return load(static_cast<const D*>(from) + (c.constant ? 0 : t * c.size()) + at, n);
  }
  ALWAYS Vec operator()(int t) const {
    Vec x = read(c.x, t);
    if constexpr (L != FLAT) {
      x = x * scale[0] + shift[0];
      if (c.shortcut) {
        const Vec added = read(c.shortcut, t);
        x = x + (c.norms() == 2 ? added * scale[1] + shift[1] : added);
      }
    }
    return x;
  }
};

ALWAYS Vec reset(Vec m, Vec s, Vec v) { return RESET == SOFT ? m - v * s : m * (1 - s); }

template <Layout L, class D> void forward_part(Call c, int thread, int threads, Active& active) {
  const Vec u_init = splat(*c.u_init), v = splat(*c.v_threshold), leak = splat(*c.leak);
  sweep<L>(c, thread, threads, [&](int64_t row, int64_t column, int n) INLINED {
    const Current<L, D> current(c, row, column, n);
    Vec u = u_init;
    Ints bits{};
    UNROLL for (int t = 0; t < T; ++t) {
      const Vec m = u + leak * (current(t) - u);
      const Ints fires = (m >= v) & first_lanes(n);
      const Vec s = select(fires, splat(1), Vec{});
      u = reset(m, s, v);
      bits |= fires & int32_t(uint32_t(1) << t);
      store(static_cast<D*>(c.o) + t * c.size() + current.at, FAMILY == TRSG ? v * s : s, n);
    }
    if (!c.spikes) return;
    store(static_cast<Bits*>(c.spikes) + current.at, bits, n);
    active.u.add(select(bits != 0, u, Vec{}));
    active.count.add(select(bits != 0, splat(1), Vec{}));
  }, [](int64_t) INLINED {});
}

// mean, scale, shift, invstd of a norm: y * scale + shift = weight * (y - mean) * invstd + bias.
void write_table(const Call& c) {
  for (int i = 0; i < c.norms(); ++i) {
    const float* const* norm = i ? c.shortcut_norm : c.norm;
    float* row = c.table + 4 * i * c.channels;
    for (int64_t channel = 0; channel < c.channels; ++channel, ++row) {
      const float mean = norm[0][channel], invstd = 1 / std::sqrt(norm[1][channel] + c.eps);
      const float scale = norm[2][channel] * invstd;
      row[0] = mean;
      row[c.channels] = scale;
      row[2 * c.channels] = norm[3][channel] - mean * scale;
      row[3 * c.channels] = invstd;
    }
  }
}

template <Layout L, class D> void forward(const Call& c) {
  if constexpr (L != FLAT) write_table(c);
  Active active = share_out<Active>(c, forward_part<L, D>);
  if (!c.spikes) return;
  *c.u_sum = float(active.u.value());
  *c.active_count = int64_t(active.count.value());
}

// The sums that are the gradients of the scalars.
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

// Writes dL/dx of every step into g, and adds to the scalars' gradients where asked for.
template <Layout L, class D>
ALWAYS void gradients(const Call& c, const Current<L, D>& current, Vec (&g)[T], Scalars* scalars) {
  const Vec v = splat(*c.v_threshold), leak = splat(*c.leak), inverse = splat(1 / *c.v_threshold);
  const Surrogate surrogate(c.gamma);
  const Ints bits = load_ints(static_cast<const Bits*>(c.spikes) + current.at, current.n);
  Vec drive[T], m[T], u = splat(*c.u_init);
  UNROLL for (int t = 0; t < T; ++t) {
    drive[t] = current(t) - u;
    m[t] = u + leak * drive[t];
    u = reset(m[t], bit(bits, t), v);
  }
  Vec carry{}, grad_v{}, grad_leak{};
  UNROLL for (int t = T - 1; t >= 0; --t) {
    const Vec go = load(static_cast<const D*>(c.go) + t * c.size() + current.at, current.n);
    const Vec relative = m[t] * inverse, s = bit(bits, t);
    Vec q = FAMILY == TRSG ? v * go : go;
    if (!DETACH) q = q - carry * (RESET == SOFT ? v : m[t]);
    const Vec qd = q * (FAMILY == AS_SG ? surrogate(m[t] - v) : surrogate(relative - 1) * inverse);
    // dz/dv is -1 for as_sg and -m / v**2 otherwise; qd carries one of the two divisions already.
    grad_v = grad_v - (FAMILY == AS_SG ? qd : qd * relative);
    if (RESET == SOFT && !DETACH) grad_v = grad_v - carry * s;
    if (FAMILY == TRSG) grad_v = grad_v + go * s;
    const Vec grad_m = qd + (RESET == SOFT ? carry : carry * (1 - s));
    grad_leak = grad_leak + grad_m * drive[t];
    g[t] = leak * grad_m;
    carry = (1 - leak) * grad_m;
  }
  if (c.constant) {
    UNROLL for (int t = 1; t < T; ++t) g[0] = g[0] + g[t];
  }
  if (scalars) {
    scalars->u_init.add(select(first_lanes(current.n), carry, Vec{}));
    scalars->v_threshold.add(select(first_lanes(current.n), grad_v, Vec{}));
    scalars->leak.add(select(first_lanes(current.n), grad_leak, Vec{}));
  }
}

// Per channel the sums of g, of g * (y - mean), and of g * (shortcut - its mean); and the scalars'.
struct ReduceSums {
  int64_t channels, padded;
  std::vector<float> block;
  std::vector<double> total;
  Scalars scalars;

  explicit ReduceSums(const Call& c)
      : channels(c.channels), padded(channels + LANES), block(3 * padded), total(3 * channels), scalars(c) {}
  void operator+=(ReduceSums& other) {
    std::transform(total.begin(), total.end(), other.total.begin(), total.begin(), std::plus<>());
    scalars += other.scalars;
  }
  // CHANNELS_LAST adds n channels from `column` on; CHANNELS_FIRST all lanes to the one channel at `column`.
  ALWAYS void add(int which, int64_t column, Vec x) {
    float* at = block.data() + which * padded + column;
    store(at, load(at, LANES) + x, LANES);
  }
  void flush(Layout layout, int64_t column = 0) {
    for (int which = 0; which < 3; ++which) {
      float* at = block.data() + which * padded;
      if (layout == CHANNELS_LAST)
        for (int64_t channel = 0; channel < channels; ++channel) total[which * channels + channel] += at[channel];
      else
        for (int lane = 0; lane < LANES; ++lane) total[which * channels + column] += at[lane];
    }
    std::fill(block.begin(), block.end(), 0.f);
  }
};

template <Layout L, class D> void reduce_part(Call c, int thread, int threads, ReduceSums& sums) {
  const int steps = c.constant ? 1 : T;
  sweep<L>(c, thread, threads, [&](int64_t row, int64_t column, int n) INLINED {
    const Current<L, D> current(c, row, column, n);
    Vec g[T], sum_g{}, sum_gy{}, sum_added{};
    gradients<L, D>(c, current, g, &sums.scalars);
    const Vec mean = per_channel<L>(c, c.table, row, column, n);
    UNROLL for (int t = 0; t < T; ++t) {
      if (t == steps) break;
      sum_g = sum_g + g[t];
      sum_gy = sum_gy + g[t] * (current.read(c.x, t) - mean);
    }
    if (c.norms() == 2) {
      const Vec mean = per_channel<L>(c, c.table + 4 * c.channels, row, column, n);
      for (int t = 0; t < steps; ++t) sum_added = sum_added + g[t] * (current.read(c.shortcut, t) - mean);
    }
    const Vec parts[3] = {sum_g, sum_gy, sum_added};
    for (int i = 0; i <= c.norms(); ++i)
      sums.add(i, L == CHANNELS_LAST ? column : 0, select(first_lanes(n), parts[i], Vec{}));
  }, [&](int64_t row) INLINED {
    if (L == CHANNELS_FIRST || row % 64 == 63) sums.flush(L, row % c.channels);
  });
  if (L == CHANNELS_LAST) sums.flush(L);
}

template <Layout L, class D> void reduce(const Call& c) {
  ReduceSums sums = share_out<ReduceSums>(c, reduce_part<L, D>);
  sums.scalars.write(c.gscalars);
  const double* total = sums.total.data();
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    c.gbias[channel] = float(total[channel]);
    for (int i = 0; i < c.norms(); ++i) {
      const float* row = c.table + 4 * i * c.channels + channel;
      const double scale = row[c.channels], invstd = row[3 * c.channels], sum_gy = total[(1 + i) * c.channels + channel];
      (i ? c.gshortcut_weight : c.gweight)[channel] = float(sum_gy * invstd);
      c.k[2 * i * c.channels + channel] = float(-c.share * scale * invstd * invstd * sum_gy);
      c.k[(2 * i + 1) * c.channels + channel] = float(-c.share * scale * total[channel]);
    }
  }
}

template <Layout L, class D> void backward_part(Call c, int thread, int threads, Scalars& scalars) {
  const int steps = c.constant ? 1 : T;
  sweep<L>(c, thread, threads, [&](int64_t row, int64_t column, int n) INLINED {
    const Current<L, D> current(c, row, column, n);
    Vec g[T];
    gradients<L, D>(c, current, g, L == FLAT ? &scalars : nullptr);
    // Of one addend of the current: g, or with a norm scale * g + k1 * (y - mean) + k0.
    const auto write = [&](void* to, const void* from, int norm) INLINED {
      Vec mean{}, k1{}, k0{};
      if (L != FLAT && norm >= 0) {
        mean = per_channel<L>(c, c.table + 4 * norm * c.channels, row, column, n);
        k1 = per_channel<L>(c, c.k + 2 * norm * c.channels, row, column, n);
        k0 = per_channel<L>(c, c.k + (2 * norm + 1) * c.channels, row, column, n);
      }
      UNROLL for (int t = 0; t < T; ++t) {
        if (t == steps) break;
        Vec gradient = g[t];
        if (L != FLAT && norm >= 0)
          gradient = gradient * current.scale[norm] + ((current.read(from, t) - mean) * k1 + k0);
        store(static_cast<D*>(to) + t * c.size() + current.at, gradient, n);
      }
    };
    write(c.gx, c.x, 0);
    if (c.gshortcut) write(c.gshortcut, c.shortcut, c.norms() == 2 ? 1 : -1);
  }, [](int64_t) INLINED {});
}

template <Layout L, class D> void backward(const Call& c) {
  Scalars scalars = share_out<Scalars>(c, backward_part<L, D>);
  if (L == FLAT) scalars.write(c.gscalars);
}

template <class D> void run(int function, int layout, const Call& c) {
  using Function = void (*)(const Call&);
  static constexpr Function functions[3][3] = {
      {forward<FLAT, D>, forward<CHANNELS_FIRST, D>, forward<CHANNELS_LAST, D>},
      {nullptr, reduce<CHANNELS_FIRST, D>, reduce<CHANNELS_LAST, D>},
      {backward<FLAT, D>, backward<CHANNELS_FIRST, D>, backward<CHANNELS_LAST, D>}};
  functions[function][layout](c);
}

}  // namespace

// function: 0 forward, 1 reduce, 2 backward. dtype: 0 float32, 1 bfloat16, 2 float16.
extern "C" void lif_run(int function, int layout, int dtype, const Call* c) {
  if (dtype == 0) run<float>(function, layout, *c);
  if (dtype == 1) run<BFloat16>(function, layout, *c);
  if (dtype == 2) run<Float16>(function, layout, *c);
}
