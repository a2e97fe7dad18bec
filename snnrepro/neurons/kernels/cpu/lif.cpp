// The LIF layer on CPUs: the forward of reference.py, its gradients written out, a vector of neurons at a time.
//
// Compiled once per set of rules (cache.py), with -DTIMESTEPS=4 -DFAMILY=TRSG -DSURROGATE=RECTANGULAR
// -DRESET=SOFT -DDETACH=0 -DVALUE=float. Nothing of a window is kept but the input and one packed integer per neuron;
// the backward runs the membrane again, in registers. Compiled with -ffp-contract=off: every product is rounded, as
// torch does, so a membrane that is run again is the forward's, bit for bit, and the reference's.

#include <cmath>
#include <limits>

#include "lif_sweep.h"

namespace {

// Of a row of a table of norms what a vector needs: one channel's value in every lane, or a value per channel.
template <Layout L> ALWAYS Vec per_channel(const Call& c, const float* values, int64_t row, int64_t column, int n) {
  if constexpr (L == CHANNELS_FIRST) return splat(values[row % c.channels]);
  return load(values + column, n);
}

// The current of W vectors of neurons, n from at[w] on in every step.
template <Layout L, int W> struct Current {
  const Call& c;
  int64_t row, column, at[W];
  int n;
  Vec scale[2], shift[2];

  ALWAYS Current(const Call& c, int64_t row, int64_t column, int n) : c(c), row(row), column(column), n(n) {
    for (int w = 0; w < W; ++w) at[w] = row * c.run + column + w * (L == CHANNELS_LAST ? c.run : LANES);
    if constexpr (L != FLAT)
      for (int i = 0; i < c.norms(); ++i) {
        scale[i] = of(c.table, 4 * i + 1);
        shift[i] = of(c.table, 4 * i + 2);
      }
  }
  ALWAYS Vec of(const float* table, int at_row) const {
    return per_channel<L>(c, table + at_row * c.channels, row, column, n);
  }
  ALWAYS int64_t of_step(int t, int w) const { return t * c.size() + at[w]; }
  template <class D> ALWAYS Vec read(const D* from, int t, int w) const {
    return load(from + of_step(c.constant ? 0 : t, w), n);
  }
  ALWAYS Vec operator()(int t, int w) const {
    Vec x = read(c.x, t, w);
    if constexpr (L != FLAT) {
      x = x * scale[0] + shift[0];
      if (c.shortcut) {
        const Vec added = read(c.shortcut, t, w);
        x = x + (c.norms() == 2 ? added * scale[1] + shift[1] : added);
      }
    }
    return x;
  }
};

// m - v * s, or m * (1 - s). A choice between the two products is a shorter wait than the product.
ALWAYS Vec reset(Vec m, Ints fires, Vec v) {
  return RESET == SOFT ? m - select(fires, v, v * 0) : m * select(fires, Vec{}, splat(1));
}

template <Layout L> void forward_part(Call c, int thread, int threads, Active& active) {
  const Vec u_init = splat(*c.u_init), v = splat(*c.v_threshold), leak = splat(*c.leak);
  // Here, not through the reference: registers. A lane counts down.
  Sum u_sum;
  Ints count{};
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec u[W];
    Ints bits[W] = {};
    UNROLL for (int w = 0; w < W; ++w) u[w] = u_init;
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int w = 0; w < W; ++w) {
      const Vec m = u[w] + leak * (current(t, w) - u[w]);
      const Ints fires = (m >= v) & first_lanes(n);
      u[w] = reset(m, fires, v);
      bits[w] |= fires & bit_of_step(t);
      const Vec one = FAMILY == TRSG ? v : splat(1);
      store(c.o + current.of_step(t, w), select(fires, one, one * 0), n);
    }
    if (!c.spikes) return;
    UNROLL for (int w = 0; w < W; ++w) {
      store(c.spikes + current.at[w], bits[w], n);
      const Ints silent = bits[w] == 0;
      u_sum.add(masked(~silent, u[w]));
      count += ~silent;
    }
  }, [](int64_t) INLINED {});
  active.u = u_sum;
  for (int lane = 0; lane < LANES; ++lane) active.count -= count[lane];
}

// Rows of each norm: y * scale + shift = weight * (y - mean) * invstd + bias.
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

template <Layout L> void forward(const Call& c) {
  if (L != FLAT) write_table(c);
  Active active = share_out<Active>(c, forward_part<L>);
  if (!c.spikes) return;
  *c.u_sum = float(active.u.value());
  *c.active_count = active.count;
}

// Writes dL/dx of every step into g, their sum into g[0] where the current is constant, and adds to the scalars'
// gradients. For the equations see reference.py.
template <Layout L, int W>
ALWAYS void gradients(const Call& c, const Current<L, W>& current, Vec (&g)[T][W], Scalars& scalars) {
  const Vec v = splat(*c.v_threshold), leak = splat(*c.leak);
  // Finite, because 0 times infinity is not 0.
  const Vec inverse = splat(std::min(1 / *c.v_threshold, std::numeric_limits<float>::max()));
  const Surrogate derivative(c.gamma);
  Ints bits[W];
  Vec drive[T][W], m[T][W], u[W], carry[W] = {}, grad_v{}, grad_leak{};
  UNROLL for (int w = 0; w < W; ++w) {
    bits[w] = load_ints(c.spikes + current.at[w], current.n);
    u[w] = splat(*c.u_init);
  }
  UNROLL for (int t = 0; t < T; ++t) UNROLL for (int w = 0; w < W; ++w) {
    drive[t][w] = current(t, w) - u[w];
    m[t][w] = u[w] + leak * drive[t][w];
    u[w] = reset(m[t][w], fired(bits[w], t), v);
  }
  UNROLL for (int t = T - 1; t >= 0; --t) UNROLL for (int w = 0; w < W; ++w) {
    const Vec go = load(c.go + current.of_step(t, w), current.n), ratio = m[t][w] * inverse;
    const Ints fires = fired(bits[w], t);
    // For trsg the factor v of the output meets the 1 / v of z, and neither is computed.
    Vec grad_s = go, direct = FAMILY == TRSG ? go : Vec{};
    if (!DETACH && FAMILY == TRSG) grad_s = go - (RESET == SOFT ? carry[w] : carry[w] * ratio);
    if (!DETACH && FAMILY != TRSG) grad_s = go - carry[w] * (RESET == SOFT ? v : m[t][w]);
    Vec grad_m = grad_s * derivative(FAMILY == AS_SG ? m[t][w] - v : ratio - 1);
    if (FAMILY == RS_SG) grad_m = grad_m * inverse;
    // dz/dv is -1 for as_sg and -m / v**2 otherwise. Directly v is a factor of s, in the output and in the soft reset.
    grad_v = grad_v - (FAMILY == AS_SG ? grad_m : grad_m * ratio);
    if (RESET == SOFT && !DETACH) direct = direct - carry[w];
    if (FAMILY == TRSG || (RESET == SOFT && !DETACH)) grad_v = grad_v + masked(fires, direct);
    grad_m = grad_m + (RESET == SOFT ? carry[w] : reset(carry[w], fires, v));
    grad_leak = grad_leak + grad_m * drive[t][w];
    g[t][w] = leak * grad_m;
    carry[w] = (1 - leak) * grad_m;
  }
  UNROLL for (int w = 0; w < W; ++w) {
    if (c.constant) {
      UNROLL for (int t = 1; t < T; ++t) g[0][w] = g[0][w] + g[t][w];
    }
    if (w > 0) carry[0] = carry[0] + carry[w];
  }
  const Ints lanes = first_lanes(current.n);
  scalars.u_init.add(masked(lanes, carry[0]));
  scalars.v_threshold.add(masked(lanes, grad_v));
  scalars.leak.add(masked(lanes, grad_leak));
}

// Adds a pair of vectors' sums for the norms, per channel of g, of g * (y - mean), and of g * (shortcut - its mean).
template <Layout L, int W>
ALWAYS void add_channels(const Call& c, const Current<L, W>& current, const Vec (&g)[T][W], Channels& sums) {
  Vec parts[3] = {};
  const Vec mean = current.of(c.table, 0);
  UNROLL for (int t = 0; t < T; ++t) {
    if (t > 0 && c.constant) break;
    UNROLL for (int w = 0; w < W; ++w) {
      parts[0] = parts[0] + g[t][w];
      parts[1] = parts[1] + g[t][w] * (current.read(c.x, t, w) - mean);
    }
  }
  if (c.norms() == 2) {
    const Vec added_mean = current.of(c.table, 4);
    for (int t = 0; t < (c.constant ? 1 : T); ++t)
      for (int w = 0; w < W; ++w) parts[2] = parts[2] + g[t][w] * (current.read(c.shortcut, t, w) - added_mean);
  }
  for (int i = 0; i <= c.norms(); ++i)
    sums.add(i, L == CHANNELS_LAST ? current.column : 0, masked(first_lanes(current.n), parts[i]));
}

template <Layout L> void backward_part(Call c, int thread, int threads, Sums& sums) {
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec g[T][W];
    gradients<L, W>(c, current, g, sums.scalars);
    if constexpr (L != FLAT) add_channels<L, W>(c, current, g, sums.channels);
    UNROLL for (int t = 0; t < T; ++t) {
      if (t > 0 && c.constant) break;
      UNROLL for (int w = 0; w < W; ++w)
        if constexpr (L == FLAT) store(c.gx + current.of_step(t, w), g[t][w], n);
        else store(c.g + current.of_step(t, w), g[t][w], n);
    }
  }, [&](int64_t row) INLINED {
    if (L == CHANNELS_FIRST || row % 64 == 63) sums.channels.flush(L, row % c.channels);
  });
  if (L == CHANNELS_LAST) sums.channels.flush(L, 0);
}

template <Layout L> void backward(const Call& c) {
  Sums sums = share_out<Sums>(c, backward_part<L>);
  sums.scalars.write(c.gscalars);
  if (L == FLAT) return;
  const double* total = sums.channels.total.data();
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    c.gbias[channel] = float(total[channel]);
    for (int i = 0; i < c.norms(); ++i) {
      const float* row = c.table + 4 * i * c.channels + channel;
      const double sum_gy = total[(1 + i) * c.channels + channel], invstd = row[3 * c.channels];
      const double factor = -double(c.share) * row[c.channels];
      (i ? c.gweight2 : c.gweight)[channel] = float(sum_gy * invstd);
      c.k[2 * i * c.channels + channel] = float(factor * invstd * invstd * sum_gy);
      c.k[(2 * i + 1) * c.channels + channel] = float(factor * total[channel]);
    }
  }
}

// Writes the gradient of one addend of the current: g, or with norm i scale * g + k1 * (y - mean) + k0. It may lie
// where g does.
template <Layout L, int W> ALWAYS void write_gradient(const Call& c, const Current<L, W>& current, const Vec (&g)[T][W],
                                                      Value* to, const Value* from, int i, bool normed) {
  Vec mean{}, k1{}, k0{};
  if (normed) {
    mean = current.of(c.table, 4 * i);
    k1 = current.of(c.k, 2 * i);
    k0 = current.of(c.k, 2 * i + 1);
  }
  UNROLL for (int t = 0; t < T; ++t) {
    if (t > 0 && c.constant) break;
    UNROLL for (int w = 0; w < W; ++w) {
      Vec gradient = g[t][w];
      if (normed) gradient = gradient * current.scale[i] + ((current.read(from, t, w) - mean) * k1 + k0);
      store(to + current.of_step(t, w), gradient, current.n);
    }
  }
}

template <Layout L> void through_norm_part(Call c, int thread, int threads, Nothing&) {
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec g[T][W];
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int w = 0; w < W; ++w) g[t][w] = current.read(c.g, t, w);
    write_gradient<L, W>(c, current, g, c.gx, c.x, 0, true);
    // g is the gradient of a shortcut without a norm, and may lie in its place already.
    const bool written = c.norms() == 1 && (const void*)c.gshortcut == c.g;
    if (c.gshortcut && !written) write_gradient<L, W>(c, current, g, c.gshortcut, c.shortcut, 1, c.norms() == 2);
  }, [](int64_t) INLINED {});
}

template <Layout L> void through_norm(const Call& c) { share_out<Nothing>(c, through_norm_part<L>); }

}  // namespace

// function: 0 forward, 1 backward, 2 through_norm (with a norm, after backward).
extern "C" void lif_run(int function, int layout, const Call* c) {
  static constexpr void (*functions[3][3])(const Call&) = {
      {forward<FLAT>, forward<CHANNELS_FIRST>, forward<CHANNELS_LAST>},
      {backward<FLAT>, backward<CHANNELS_FIRST>, backward<CHANNELS_LAST>},
      {nullptr, through_norm<CHANNELS_FIRST>, through_norm<CHANNELS_LAST>}};
  functions[function][layout](*c);
}
