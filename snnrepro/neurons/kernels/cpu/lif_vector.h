// Vectors of float32 for lif.cpp: memory formats, and the surrogates of surrogates.py. GCC and Clang vector extensions.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define ALWAYS __attribute__((always_inline)) inline
#define INLINED __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

// The rules, as in the configuration; the compiler's command line chooses one of each.
enum Family { AS_SG, RS_SG, TRSG };
enum Shape { RECTANGULAR, TRIANGULAR, ARCTAN, SIGMOID, DSPIKE, LINEAR };
enum Reset { SOFT, HARD };

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
typedef int16_t Shorts __attribute__((vector_size(LANES * 2)));
typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
typedef uint8_t Bytes __attribute__((vector_size(LANES)));

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

ALWAYS Vec splat(float x) { return Vec{} + x; }
ALWAYS Vec select(Ints mask, Vec yes, Vec no) { return mask ? yes : no; }
ALWAYS Vec widen(Ints x) { return __builtin_convertvector(x, Vec); }
ALWAYS Vec absolute(Vec x) { return (Vec)((Ints)x & 0x7fffffff); }
ALWAYS int32_t bit_of_step(int t) { return int32_t(uint32_t(1) << t); }
// A mask: where the bit of step t is set. A comparison for equality, because x86 has none for the opposite.
ALWAYS Ints fired(Ints bits, int t) { return (bits & bit_of_step(t)) == bit_of_step(t); }
ALWAYS Vec masked(Ints mask, Vec x) { return (Vec)(mask & (Ints)x); }
// 0 for what is below; NaN stays NaN.
ALWAYS Vec positive(Vec x) { return select(x < 0, Vec{}, x); }

ALWAYS Ints first_lanes(int n) {
  Ints lane;
  for (int i = 0; i < LANES; ++i) lane[i] = i;
  return lane < n;
}

// What of a vector lies in memory, and between it and registers: the first n values, zeros behind them.
template <class Raw, class D> ALWAYS Raw read(const D* from, int n) {
  Raw raw{};
  if (n == LANES) std::memcpy(&raw, from, sizeof raw);
  else std::memcpy(&raw, from, n * sizeof(D));
  return raw;
}
template <class Raw, class D> ALWAYS void write(D* to, Raw raw, int n) {
  if (n == LANES) std::memcpy(to, &raw, sizeof raw);
  else std::memcpy(to, &raw, n * sizeof(D));
}

ALWAYS Vec load(const float* from, int n) { return read<Vec>(from, n); }
ALWAYS void store(float* to, Vec x, int n) { write(to, x, n); }

ALWAYS Vec load(const BFloat16* from, int n) {
  return (Vec)(__builtin_convertvector(read<Halves>(from, n), Words) << 16);
}
ALWAYS void store(BFloat16* to, Vec x, int n) {
  // To the nearest, ties to even.
  const Words word = (Words)x, rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  write(to, __builtin_convertvector(x == x ? rounded : Words{} + 0x7fc0, Halves), n);
}

ALWAYS Vec load(const Float16* from, int n) {
  const Words half = __builtin_convertvector(read<Halves>(from, n), Words), sign = (half & 0x8000) << 16;
  // Exponent and fraction in place, the exponent too small by 112: a product with 2**112 also mends denormals.
  const Words word = (half & 0x7fff) << 13;
  const Vec value = (Vec)word * 0x1p112f;
  return (Vec)(sign | (word >= (0x7c00 << 13) ? word | 0x7f800000 : (Words)value));
}
ALWAYS void store(Float16* to, Vec x, int n) {
  const Words word = (Words)x & 0x7fffffff, sign = ((Words)x >> 16) & 0x8000;
  // Numbers: 13 bits fewer, to the nearest, ties to even. Denormals: the sum with 1/2 rounds to multiples of 2**-24.
  const Words normal = (word - (112 << 23) + 0xfff + ((word >> 13) & 1)) >> 13;
  const Words denormal = (Words)((Vec)word + 0.5f) - 0x3f000000;
  Words half = word < (113 << 23) ? denormal : normal;
  half = word >= 0x477ff000 ? Words{} + 0x7c00 : half;
  half = word > 0x7f800000 ? Words{} + 0x7e00 : half;
  write(to, __builtin_convertvector(half | sign, Halves), n);
}

// Bytes by way of halves: compilers convert them directly one by one.
ALWAYS Ints load_ints(const uint8_t* from, int n) {
  return __builtin_convertvector(__builtin_convertvector(read<Bytes>(from, n), Halves), Ints);
}
ALWAYS Ints load_ints(const int16_t* from, int n) { return __builtin_convertvector(read<Shorts>(from, n), Ints); }
ALWAYS Ints load_ints(const int32_t* from, int n) { return read<Ints>(from, n); }
ALWAYS void store(uint8_t* to, Ints x, int n) {
  write(to, __builtin_convertvector(__builtin_convertvector(x, Halves), Bytes), n);
}
ALWAYS void store(int16_t* to, Ints x, int n) { write(to, __builtin_convertvector(x, Shorts), n); }
ALWAYS void store(int32_t* to, Ints x, int n) { write(to, x, n); }

// 1 / (1 + exp(-x)), to a few units in the last place (exp as in Cephes).
ALWAYS Vec sigmoid(Vec x) {
  const Vec bounded = select(x > 87, splat(87), select(x < -87, splat(-87), x));
  const Vec y = -bounded;
  const Ints k = __builtin_convertvector(y * 1.44269504f + select(y < 0, splat(-0.5f), splat(0.5f)), Ints);
  const Vec whole = widen(k), r = (y - whole * 0.693359375f) - whole * -2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  for (float factor : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = p * r + factor;
  const Vec exponential = (p * r * r + r + 1) * (Vec)((k + 127) << 23);
  return 1 / (1 + exponential);
}

// f'(z) as in surrogates.py.
struct Surrogate {
  float gamma, height;

  explicit Surrogate(float gamma) : gamma(gamma), height(peak(gamma)) {}
  static float peak(float gamma) {
    if (SURROGATE == ARCTAN) return gamma / 2;
    if (SURROGATE == TRIANGULAR) return 1 / (gamma * gamma);
    if (SURROGATE == DSPIKE) return 2 * gamma / std::tanh(gamma / 2);
    if (SURROGATE == LINEAR) return gamma;
    return 1 / gamma;
  }
  ALWAYS Vec operator()(Vec z) const {
    if constexpr (SURROGATE == RECTANGULAR) return select(absolute(z) < gamma / 2, splat(height), Vec{});
    if constexpr (SURROGATE == TRIANGULAR) return positive(gamma - absolute(z)) * height;
    if constexpr (SURROGATE == LINEAR) return positive(1 - absolute(z)) * height;
    if constexpr (SURROGATE == ARCTAN) {
      const Vec scaled = z * float(M_PI / 2 * gamma);
      return height / (1 + scaled * scaled);
    }
    if constexpr (SURROGATE == SIGMOID || SURROGATE == DSPIKE) {
      const Vec s = sigmoid(SURROGATE == SIGMOID ? z / gamma : z * (2 * gamma)), slope = s * (1 - s) * height;
      return SURROGATE == SIGMOID ? slope : select(absolute(z) < 0.5f, slope, Vec{});
    }
  }
};
