// The LIF layer on CPUs: the forward of reference.py, the backward of analytic.py, a vector of neurons at a time.
//
// Compiled once per set of rules (kernel_cache.py), with -DTIMESTEPS=4 -DFAMILY=TRSG -DSURROGATE=RECTANGULAR
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
  ALWAYS Vec read(const Value* from, int t, int w) const { return load(from + of_step(c.constant ? 0 : t, w), n); }
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

ALWAYS Vec reset(Vec m, Vec s, Vec v) { return RESET == SOFT ? m - v * s : m * (1 - s); }

template <Layout L> void forward_part(Call c, int thread, int threads, Active& active) {
  const Vec u_init = splat(*c.u_init), v = splat(*c.v_threshold), leak = splat(*c.leak);
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec u[W];
    Ints bits[W] = {};
    UNROLL for (int w = 0; w < W; ++w) u[w] = u_init;
    UNROLL for (int t = 0; t < T; ++t) UNROLL for (int w = 0; w < W; ++w) {
      const Vec m = u[w] + leak * (current(t, w) - u[w]);
      const Ints fires = (m >= v) & first_lanes(n);
      const Vec s = select(fires, splat(1), Vec{});
      u[w] = reset(m, s, v);
      bits[w] |= fires & bit_of_step(t);
      store(c.o + current.of_step(t, w), FAMILY == TRSG ? v * s : s, n);
    }
    if (!c.spikes) return;
    UNROLL for (int w = 0; w < W; ++w) {
      store(c.spikes + current.at[w], bits[w], n);
      active.u.add(select(bits[w] != 0, u[w], Vec{}));
      active.count.add(select(bits[w] != 0, splat(1), Vec{}));
    }
  }, [](int64_t) INLINED {});
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
  *c.active_count = int64_t(active.count.value());
}

// Writes dL/dx of every step into g, their sum into g[0] where the current is constant, and adds to the scalars'
// gradients where asked for. For the equations see analytic.py.
template <Layout L, int W>
ALWAYS void gradients(const Call& c, const Current<L, W>& current, Vec (&g)[T][W], Scalars* scalars) {
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
    u[w] = reset(m[t][w], bit(bits[w], t), v);
  }
  UNROLL for (int t = T - 1; t >= 0; --t) UNROLL for (int w = 0; w < W; ++w) {
    const Vec go = load(c.go + current.of_step(t, w), current.n), s = bit(bits[w], t), relative = m[t][w] * inverse;
    Vec q = FAMILY == TRSG ? v * go : go;
    if (!DETACH) q = q - carry[w] * (RESET == SOFT ? v : m[t][w]);
    const Vec qd = q * (FAMILY == AS_SG ? derivative(m[t][w] - v) : derivative(relative - 1) * inverse);
    // dz/dv is -1 for as_sg and -m / v**2 otherwise; qd carries one of the two divisions already.
    grad_v = grad_v - (FAMILY == AS_SG ? qd : qd * relative);
    if (RESET == SOFT && !DETACH) grad_v = grad_v - carry[w] * s;
    if (FAMILY == TRSG) grad_v = grad_v + go * s;
    const Vec grad_m = qd + (RESET == SOFT ? carry[w] : carry[w] * (1 - s));
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
  if (scalars) {
    const Ints lanes = first_lanes(current.n);
    scalars->u_init.add(select(lanes, carry[0], Vec{}));
    scalars->v_threshold.add(select(lanes, grad_v, Vec{}));
    scalars->leak.add(select(lanes, grad_leak, Vec{}));
  }
}

template <Layout L> void reduce_part(Call c, int thread, int threads, Reduced& sums) {
  const int steps = c.constant ? 1 : T;
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec g[T][W], parts[3] = {};
    gradients<L, W>(c, current, g, &sums.scalars);
    const Vec mean = current.of(c.table, 0);
    UNROLL for (int t = 0; t < T; ++t) {
      if (t == steps) break;
      UNROLL for (int w = 0; w < W; ++w) {
        parts[0] = parts[0] + g[t][w];
        parts[1] = parts[1] + g[t][w] * (current.read(c.x, t, w) - mean);
      }
    }
    if (c.norms() == 2) {
      const Vec added_mean = current.of(c.table, 4);
      for (int t = 0; t < steps; ++t)
        for (int w = 0; w < W; ++w)
          parts[2] = parts[2] + g[t][w] * (current.read(c.shortcut, t, w) - added_mean);
    }
    for (int i = 0; i <= c.norms(); ++i)
      sums.channels.add(i, L == CHANNELS_LAST ? column : 0, select(first_lanes(n), parts[i], Vec{}));
  }, [&](int64_t row) INLINED {
    if (L == CHANNELS_FIRST || row % 64 == 63) sums.channels.flush(L, row % c.channels);
  });
  if (L == CHANNELS_LAST) sums.channels.flush(L, 0);
}

template <Layout L> void reduce(const Call& c) {
  Reduced sums = share_out<Reduced>(c, reduce_part<L>);
  sums.scalars.write(c.gscalars);
  const double* total = sums.channels.total.data();
  for (int64_t channel = 0; channel < c.channels; ++channel) {
    c.gbias[channel] = float(total[channel]);
    for (int i = 0; i < c.norms(); ++i) {
      const float* row = c.table + 4 * i * c.channels + channel;
      const double sum_gy = total[(1 + i) * c.channels + channel], invstd = row[3 * c.channels];
      const double factor = -double(c.share) * row[c.channels];
      (i ? c.gshortcut_weight : c.gweight)[channel] = float(sum_gy * invstd);
      c.k[2 * i * c.channels + channel] = float(factor * invstd * invstd * sum_gy);
      c.k[(2 * i + 1) * c.channels + channel] = float(factor * total[channel]);
    }
  }
}

// Writes the gradient of one addend of the current: g, or with norm i scale * g + k1 * (y - mean) + k0.
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

template <Layout L> void backward_part(Call c, int thread, int threads, Scalars& scalars) {
  sweep<L>(c, thread, threads, [&](auto width, int64_t row, int64_t column, int n) INLINED {
    constexpr int W = width;
    const Current<L, W> current(c, row, column, n);
    Vec g[T][W];
    gradients<L, W>(c, current, g, L == FLAT ? &scalars : nullptr);
    write_gradient<L, W>(c, current, g, c.gx, c.x, 0, L != FLAT);
    if (c.gshortcut) write_gradient<L, W>(c, current, g, c.gshortcut, c.shortcut, 1, c.norms() == 2);
  }, [](int64_t) INLINED {});
}

template <Layout L> void backward(const Call& c) {
  Scalars scalars = share_out<Scalars>(c, backward_part<L>);
  if (L == FLAT) scalars.write(c.gscalars);
}

}  // namespace

// function: 0 forward, 1 reduce (with a norm only), 2 backward.
extern "C" void lif_run(int function, int layout, const Call* c) {
  static constexpr void (*functions[3][3])(const Call&) = {
      {forward<FLAT>, forward<CHANNELS_FIRST>, forward<CHANNELS_LAST>},
      {nullptr, reduce<CHANNELS_FIRST>, reduce<CHANNELS_LAST>},
      {backward<FLAT>, backward<CHANNELS_FIRST>, backward<CHANNELS_LAST>}};
  functions[function][layout](*c);
}
