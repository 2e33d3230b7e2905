// The selective scan by hand in C++, the yardstick of benchmarks/scan.py; no part of the package.
//
// float32, channels last: u, delta, z, y (b, l, d); A (d, n); B, C (b, l, n); D, bias (d,); softplus, D and z
// always. d must be a multiple of two vectors, n of TILE_N. Vectors are GCC's: 16 lanes with AVX-512, else 8.
//
// A task is a batch item and a block of channels. It works in chunks of CHUNK steps, and each chunk in tiles of
// TILE_N states by two vectors of channels, whose states stay in registers over the chunk. Forward keeps the
// state before each chunk; backward recomputes a chunk's states and decays into a scratch that fits the cache.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#ifndef CHUNK
#define CHUNK 64
#endif

namespace {

#ifdef __AVX512F__
constexpr long LANES = 16;
#else
constexpr long LANES = 8;
#endif
constexpr long TILE_N = 4, PAIR = 2 * LANES, BLOCK = 64;

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int Int __attribute__((vector_size(4 * LANES)));

inline Vec load(const float *p) { Vec v; std::memcpy(&v, p, sizeof v); return v; }
inline void store(float *p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline Vec all(float x) { return Vec{} + x; }

constexpr float LOG2E = 1.4426950408889634f;

// The bound as first operand: NaN stays NaN.
#ifdef __AVX512F__
inline Vec at_least(Vec x, float bound) { return (Vec)_mm512_max_ps((__m512)all(bound), (__m512)x); }
inline Vec at_most(Vec x, float bound) { return (Vec)_mm512_min_ps((__m512)all(bound), (__m512)x); }
#else
inline Vec at_least(Vec x, float bound) { return x < all(bound) ? all(bound) : x; }
inline Vec at_most(Vec x, float bound) { return x > all(bound) ? all(bound) : x; }
#endif

#ifdef __AVX512F__
struct Exp2Table { float values[32]; };

// 2**(i/32), less i << 18 in its bits: adding (32 x) << 18 then adds the whole part of x to the exponent only.
Exp2Table exp2_table() {
  Exp2Table table;
  for (int i = 0; i < 32; ++i) {
    float value = (float)std::exp2(i / 32.0);
    int bits;
    std::memcpy(&bits, &value, 4);
    bits -= i << 18;
    std::memcpy(&table.values[i], &bits, 4);
  }
  return table;
}
const Exp2Table TABLE = exp2_table();

struct Exp2 {
  Vec low = load(TABLE.values), high = load(TABLE.values + 16);
  Vec operator()(Vec x) const {
    const float magic = 1.5f * (1 << 18);  // the sum's last bit is worth 1/32
    x = at_most(at_least(x, -126.f), 127.f);
    Vec shifted = x + magic;
    Vec rest = x - (shifted - magic);
    Vec excess = (rest * all(0.2402247458324775f) + 0.6931573435652076f) * rest;
    Vec scale = (Vec)((Int)__builtin_shuffle(low, high, (Int)shifted) + ((Int)shifted << 18));
    return scale * excess + scale;
  }
};
#else
struct Exp2 {
  Vec operator()(Vec x) const {
    const float magic = 1.5f * (1 << 23);
    x = at_most(at_least(x, -126.f), 127.f);
    Vec shifted = x + magic;
    Vec r = x - (shifted - magic);
    Vec power = r * all(0.00015345812158740183f) + 0.001339993120947414f;
    for (float c : {0.009618488956522791f, 0.055503287769976636f, 0.24022646890639573f, 0.6931472057372526f, 1.f})
      power = power * r + c;
    return (Vec)((Int)power + ((Int)shifted << 23));
  }
};
#endif

struct Softplus { Vec value, slope; };

inline Softplus softplus(Vec x, const Exp2 &exp2, bool with_slope) {
  Vec positive = at_least(x, 0.f);
  Vec e = exp2((at_most(x, 0.f) - positive) * LOG2E), s = e / (e + 2.f), q = s * s;
  Vec series = q * all(0.2817833513488206f) + 0.27960602708805665f;
  for (float c : {0.4002491028546148f, 0.6666631468190272f, 2.0f}) series = series * q + c;
  Softplus both{s * series + positive, Vec{}};
  if (with_slope) both.slope = (x > all(0.f) ? all(1.f) : e) / (e + 1.f);
  return both;
}

inline Vec sigmoid(Vec x, const Exp2 &exp2) { return all(1.f) / (exp2(x * all(-LOG2E)) + 1.f); }

// Adds the halves of a and of b: lanes of a's sum first, then b's.
inline Vec fold(Vec a, Vec b) {
#ifdef __AVX512F__
  Int low = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23}, high = low + 8;
#else
  Int low = {0, 1, 2, 3, 8, 9, 10, 11}, high = low + 4;
#endif
  return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

inline Vec fold_halves(Vec ab, Vec cd) {
#ifdef __AVX512F__
  Int low = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}, high = low + 4;
#else
  Int low = {0, 1, 4, 5, 8, 9, 12, 13}, high = low + 2;
#endif
  return __builtin_shuffle(ab, cd, low) + __builtin_shuffle(ab, cd, high);
}

// Four vectors -> one, in which each has LANES / 4 lanes.
inline Vec fold4(const Vec *v) { return fold_halves(fold(v[0], v[1]), fold(v[2], v[3])); }

struct Sizes { long b, l, d, n; };

struct Inputs { const float *u, *delta, *z, *A, *B, *C, *D, *bias; };

struct Outputs { float *y, *states; };

struct Grads { const float *dy; float *du, *ddelta, *dz, *dA, *dB, *dC, *dD, *dbias; };

struct alignas(64) Scratch {
  float step[CHUNK][BLOCK], step_u[CHUNK][BLOCK], out[CHUNK][BLOCK], dout[CHUNK][BLOCK], slope[CHUNK][BLOCK];
  float through_u[CHUNK][BLOCK], through_decay[CHUNK][BLOCK];
  Vec before[CHUNK][TILE_N][2], decay[CHUNK][TILE_N][2];
  std::vector<float> A, h, dh, dA, sums_B, sums_C;

  explicit Scratch(long n)
      : A(n * BLOCK), h(n * BLOCK), dh(n * BLOCK), dA(n * BLOCK), sums_B(CHUNK * n / TILE_N * LANES),
        sums_C(sums_B.size()) {}
};

struct Task {
  Sizes s; Inputs in; Scratch &own; long item, c, width; Exp2 exp2;

  long row(long t) const { return (item * s.l + t) * s.d + c; }
  const float *states_of(const float *B, long t, long j) const { return B + (item * s.l + t) * s.n + j; }
  long kept(long chunk, long j) const {
    return ((item * ((s.l + CHUNK - 1) / CHUNK) + chunk) * s.n + j) * s.d + c;
  }

  void take_A() {
    for (long j = 0; j < s.n; ++j)
      for (long i = 0; i < width; ++i) own.A[j * BLOCK + i] = in.A[(c + i) * s.n + j] * LOG2E;
  }

  // Rows of the next chunk, asked for while this one is being worked on.
  void prefetch(long t, std::initializer_list<const float *> sources) const {
    if (t < 0 || t >= s.l) return;
    for (const float *source : sources)
      for (long i = 0; i < width; i += 16) __builtin_prefetch(source + row(t) + i, 0, 2);
  }

  void prepare(long start, long steps, bool backward) {
    for (long k = 0; k < steps; ++k) {
      prefetch(start + k + (backward ? -CHUNK : CHUNK), {in.u, in.delta, in.z});
      for (long i = 0; i < width; i += LANES) {
        auto [step, slope] = softplus(load(in.delta + row(start + k) + i) + load(in.bias + c + i), exp2, backward);
        store(own.step[k] + i, step);
        store(own.step_u[k] + i, step * load(in.u + row(start + k) + i));
        if (backward) store(own.slope[k] + i, slope);
      }
    }
  }

  // One tile through one chunk. Backward keeps states and decays and sums dout times the states.
  template <bool backward> void advance(long start, long steps, long j, long i) {
    Vec h[TILE_N][2];
    for (long a = 0; a < TILE_N; ++a)
      for (int v = 0; v < 2; ++v) h[a][v] = load(&own.h[(j + a) * BLOCK + i + v * LANES]);
    const float *A = &own.A[j * BLOCK + i];
    for (long k = 0; k < steps; ++k) {
      const float *B = states_of(in.B, start + k, j), *C = states_of(in.C, start + k, j);
      Vec out[2] = {}, products[TILE_N];
      if (j)
        for (int v = 0; v < 2; ++v) out[v] = load(own.out[k] + i + v * LANES);
#pragma GCC unroll 8
      for (long a = 0; a < TILE_N; ++a) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          Vec step = load(own.step[k] + i + v * LANES), step_u = load(own.step_u[k] + i + v * LANES);
          Vec decay = exp2(step * load(A + a * BLOCK + v * LANES));
          if (backward) own.before[k][a][v] = h[a][v], own.decay[k][a][v] = decay;
          h[a][v] = decay * h[a][v] + step_u * all(B[a]);
          out[v] = h[a][v] * all(C[a]) + out[v];
        }
        if (backward)
          products[a] = load(own.dout[k] + i) * h[a][0] + load(own.dout[k] + i + LANES) * h[a][1];
      }
      for (int v = 0; v < 2; ++v) store(own.out[k] + i + v * LANES, out[v]);
      if (backward) {
        float *sum = &own.sums_C[(k * s.n + j) / TILE_N * LANES];
        Vec folded = fold4(products);
        store(sum, i ? load(sum) + folded : folded);
      }
    }
    for (long a = 0; a < TILE_N; ++a)
      for (int v = 0; v < 2; ++v) store(&own.h[(j + a) * BLOCK + i + v * LANES], h[a][v]);
  }

  void retreat(long start, long steps, long j, long i) {
    Vec dh[TILE_N][2], dA[TILE_N][2];
    for (long a = 0; a < TILE_N; ++a)
      for (int v = 0; v < 2; ++v) {
        dh[a][v] = load(&own.dh[(j + a) * BLOCK + i + v * LANES]);
        dA[a][v] = load(&own.dA[(j + a) * BLOCK + i + v * LANES]);
      }
    const float *A = &own.A[j * BLOCK + i];
    for (long k = steps - 1; k >= 0; --k) {
      const float *B = states_of(in.B, start + k, j), *C = states_of(in.C, start + k, j);
      Vec through_u[2] = {}, through_decay[2] = {}, products[TILE_N];
      if (j)
        for (int v = 0; v < 2; ++v) {
          through_u[v] = load(own.through_u[k] + i + v * LANES);
          through_decay[v] = load(own.through_decay[k] + i + v * LANES);
        }
#pragma GCC unroll 8
      for (long a = 0; a < TILE_N; ++a) {
        Vec grad[2];
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          grad[v] = load(own.dout[k] + i + v * LANES) * all(C[a]) + dh[a][v];
          through_u[v] = grad[v] * all(B[a]) + through_u[v];
          dh[a][v] = grad[v] * own.decay[k][a][v];
          Vec d_exponent = dh[a][v] * own.before[k][a][v];
          through_decay[v] = d_exponent * load(A + a * BLOCK + v * LANES) + through_decay[v];
          dA[a][v] = d_exponent * load(own.step[k] + i + v * LANES) + dA[a][v];
        }
        products[a] = load(own.step_u[k] + i) * grad[0] + load(own.step_u[k] + i + LANES) * grad[1];
      }
      for (int v = 0; v < 2; ++v) {
        store(own.through_u[k] + i + v * LANES, through_u[v]);
        store(own.through_decay[k] + i + v * LANES, through_decay[v]);
      }
      float *sum = &own.sums_B[(k * s.n + j) / TILE_N * LANES];
      Vec folded = fold4(products);
      store(sum, i ? load(sum) + folded : folded);
    }
    for (long a = 0; a < TILE_N; ++a)
      for (int v = 0; v < 2; ++v) {
        store(&own.dh[(j + a) * BLOCK + i + v * LANES], dh[a][v]);
        store(&own.dA[(j + a) * BLOCK + i + v * LANES], dA[a][v]);
      }
  }

  void forward(const Outputs &to) {
    take_A();
    std::fill(own.h.begin(), own.h.end(), 0.f);
    for (long start = 0; start < s.l; start += CHUNK) {
      long steps = std::min<long>(CHUNK, s.l - start);
      if (to.states)
        for (long j = 0; j < s.n; ++j)
          std::memcpy(to.states + kept(start / CHUNK, j), &own.h[j * BLOCK], width * sizeof(float));
      prepare(start, steps, false);
      for (long i = 0; i < width; i += PAIR)
        for (long j = 0; j < s.n; j += TILE_N) advance<false>(start, steps, j, i);
      for (long k = 0; k < steps; ++k)
        for (long i = 0; i < width; i += LANES) {
          long at = row(start + k) + i;
          Vec z = load(in.z + at), y = load(in.D + c + i) * load(in.u + at) + load(own.out[k] + i);
          store(to.y + at, y * (z * sigmoid(z, exp2)));
        }
    }
  }

  void gate(const Grads &g, long start, long steps) {
    for (long k = 0; k < steps; ++k) {
      prefetch(start + k - CHUNK, {g.dy});
      for (long i = 0; i < width; i += LANES) {
        long at = row(start + k) + i;
        Vec z = load(in.z + at), dy = load(g.dy + at), s = sigmoid(z, exp2);
        store(own.dout[k] + i, dy * (z * s));
        store(g.dz + at, dy * (s * (z * (all(1.f) - s) + 1.f)));  // times y once y is known
      }
    }
  }

  void finish(const Grads &g, float *dD, float *dbias, long start, long steps) {
    for (long i = 0; i < width; i += LANES) {
      Vec D = load(in.D + c + i), sum_D = load(dD + i), sum_bias = load(dbias + i);
      for (long k = 0; k < steps; ++k) {
        long at = row(start + k) + i;
        Vec u = load(in.u + at), dout = load(own.dout[k] + i), through_u = load(own.through_u[k] + i);
        store(g.dz + at, load(g.dz + at) * (D * u + load(own.out[k] + i)));
        store(g.du + at, through_u * load(own.step[k] + i) + dout * D);
        Vec through = through_u * u + load(own.through_decay[k] + i) * all(1 / LOG2E);
        Vec d_delta = through * load(own.slope[k] + i);
        store(g.ddelta + at, d_delta);
        sum_D += dout * u;
        sum_bias += d_delta;
      }
      store(dD + i, sum_D);
      store(dbias + i, sum_bias);
    }
  }

  // sums (k, n / TILE_N, TILE_N, LANES / TILE_N) -> to (k, n), added unless this block is the first.
  void add_sums(const std::vector<float> &sums, float *to, long start, long steps, bool first) {
    constexpr long segment = LANES / TILE_N;
    for (long k = 0; k < steps; ++k)
      for (long j = 0; j < s.n; ++j) {
        float total = 0;
        for (long lane = 0; lane < segment; ++lane) total += sums[(k * s.n + j) * segment + lane];
        float &target = to[(item * s.l + start + k) * s.n + j];
        target = first ? total : target + total;
      }
  }

  void backward(const float *states, const Grads &g, float *dB, float *dC, float *dD, float *dbias, bool first) {
    take_A();
    std::fill(own.dh.begin(), own.dh.end(), 0.f);
    std::fill(own.dA.begin(), own.dA.end(), 0.f);
    for (long start = (s.l - 1) / CHUNK * CHUNK; start >= 0; start -= CHUNK) {
      long steps = std::min<long>(CHUNK, s.l - start);
      for (long j = 0; j < s.n; ++j)
        std::memcpy(&own.h[j * BLOCK], states + kept(start / CHUNK, j), width * sizeof(float));
      prepare(start, steps, true);
      gate(g, start, steps);
      for (long i = 0; i < width; i += PAIR)
        for (long j = 0; j < s.n; j += TILE_N) {
          advance<true>(start, steps, j, i);
          retreat(start, steps, j, i);
        }
      finish(g, dD, dbias, start, steps);
      add_sums(own.sums_B, dB, start, steps, first);
      add_sums(own.sums_C, dC, start, steps, first);
    }
  }
};

long blocks_of(const Sizes &s) { return (s.d + BLOCK - 1) / BLOCK; }

void in_threads(long n_tasks, long threads, const std::function<void(long, long, long)> &work) {
  threads = std::min(threads, n_tasks);
  std::vector<std::thread> others;
  for (long part = 1; part < threads; ++part)
    others.emplace_back(work, part, n_tasks * part / threads, n_tasks * (part + 1) / threads);
  work(0, 0, n_tasks / threads);
  for (auto &other : others) other.join();
}

}  // namespace

extern "C" {

long chunk() { return CHUNK; }

long pair() { return PAIR; }

// y (b, l, d); states (b, chunks, n, d) or null.
void forward(long threads, Sizes s, Inputs in, Outputs to) {
  in_threads(s.b * blocks_of(s), threads, [&](long, long first, long last) {
    auto own = std::make_unique<Scratch>(s.n);
    for (long task = first; task < last; ++task) {
      long c = task % blocks_of(s) * BLOCK;
      Task{s, in, *own, task / blocks_of(s), c, std::min(BLOCK, s.d - c), {}}.forward(to);
    }
  });
}

// du, ddelta, dz (b, l, d); dB, dC (threads, b, l, n), zeros where threads > 1; dA (b, n, d), dD, dbias (b, d),
// all to be summed over their first axis; dD and dbias zeros.
void backward(long threads, Sizes s, Inputs in, const float *states, Grads g) {
  in_threads(s.b * blocks_of(s), threads, [&](long thread, long first, long last) {
    auto own = std::make_unique<Scratch>(s.n);
    long part = thread * s.b * s.l * s.n;
    for (long task = first; task < last; ++task) {
      long item = task / blocks_of(s), c = task % blocks_of(s) * BLOCK;
      Task one{s, in, *own, item, c, std::min(BLOCK, s.d - c), {}};
      one.backward(states, g, g.dB + part, g.dC + part, g.dD + item * s.d + c, g.dbias + item * s.d + c,
                   task == first || c == 0);
      for (long j = 0; j < s.n; ++j)
        std::memcpy(g.dA + (item * s.n + j) * s.d + c, &own->dA[j * BLOCK], one.width * sizeof(float));
    }
  });
}

}
