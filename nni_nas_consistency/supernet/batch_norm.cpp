// Training-mode batch norm of channels-last features, with what follows it in the same pass:
//     y = [ReLU](sum over terms of  weight * (x - mean) / sqrt(var + eps) + bias,  or x itself)
// Features are [groups, pixels, C]; each group has statistics of its own. Sums are taken over chunks of fixed size and
// added up in their order, in double precision: results do not depend on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

constexpr int MOST_TERMS = 2;
constexpr int64_t LANES = 256;  // at least so many sums side by side, so that additions need not wait for one another
constexpr int64_t CHUNK = 16384;  // elements: 32 or 64 kB, which stay in the cache of a core between two reads

struct bfloat16 {
    uint16_t bits;
};

inline float wide(float x) { return x; }

inline float wide(bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void narrow(float value, float& x) { x = value; }

inline void narrow(float value, bfloat16& x) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to the nearest, ties to even
    x.bits = value == value ? uint16_t(rounded) : uint16_t(0x7fc0);
}

// How the elements of a group are walked: in chunks of whole rows, a row being `lanes` elements of several pixels, so
// that the innermost loop has full vectors for any number of channels.
struct Walk {
    int64_t groups, elements, c, lanes, chunk, chunks;

    Walk(int64_t groups, int64_t pixels, int64_t c) : groups(groups), elements(pixels * c), c(c) {
        lanes = c * (16 / std::gcd(c, int64_t(16)));
        lanes *= (LANES + lanes - 1) / lanes;
        chunk = std::max(CHUNK / lanes, int64_t(1)) * lanes;
        chunks = (elements + chunk - 1) / chunk;
    }

    // Calls body(group, chunk's number, first element, number of elements) for each chunk, on several threads.
    template <class Body>
    void chunked(int threads, Body body) const {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t index = 0; index < groups * chunks; index++) {
            int64_t group = index / chunks, start = (index % chunks) * chunk;
            body(group, index, group * elements + start, std::min(chunk, elements - start));
        }
    }

    // Repeats values per channel for the lanes of a row.
    std::vector<float> laned(const float* values) const {
        std::vector<float> repeated(groups * lanes);
        for (int64_t group = 0; group < groups; group++)
            for (int64_t lane = 0; lane < lanes; lane++)
                repeated[group * lanes + lane] = values[group * c + lane % c];
        return repeated;
    }

    // Adds up partial sums [groups * chunks, lanes] to [groups, C].
    std::vector<double> total(const std::vector<float>& partial) const {
        std::vector<double> sums(groups * c, 0.0);
        for (int64_t group = 0; group < groups; group++) {
            double* sum = sums.data() + group * c;
            for (int64_t index = group * chunks; index < (group + 1) * chunks; index++)
                for (int64_t first = 0; first < lanes; first += c)
                    for (int64_t channel = 0; channel < c; channel++)
                        sum[channel] += partial[index * lanes + first + channel];
        }
        return sums;
    }
};

// Calls body(element, lane) row by row; the last row may be shorter.
template <class Body>
inline void rows(int64_t lanes, int64_t count, Body body) {
    int64_t start = 0;
    for (; start + lanes <= count; start += lanes)
#pragma GCC ivdep
        for (int64_t lane = 0; lane < lanes; lane++) body(start + lane, lane);
#pragma GCC ivdep
    for (int64_t lane = 0; lane < count - start; lane++) body(start + lane, lane);
}

// Mean and biased variance per group and channel; sums are taken of differences from the first pixel.
template <class T>
void moments(const Walk& walk, int threads, const T* x, float* mean, float* var) {
    std::vector<float> first(walk.groups * walk.c);
    for (int64_t group = 0; group < walk.groups; group++)
        for (int64_t channel = 0; channel < walk.c; channel++)
            first[group * walk.c + channel] = wide(x[group * walk.elements + channel]);
    std::vector<float> origin = walk.laned(first.data());
    std::vector<float> sums(walk.groups * walk.chunks * walk.lanes, 0.f), squares(sums.size(), 0.f);
    walk.chunked(threads, [&](int64_t group, int64_t index, int64_t start, int64_t count) {
        const T* in = x + start;
        const float* from = origin.data() + group * walk.lanes;
        float *sum = sums.data() + index * walk.lanes, *square = squares.data() + index * walk.lanes;
        rows(walk.lanes, count, [=](int64_t i, int64_t lane) {
            float difference = wide(in[i]) - from[lane];
            sum[lane] += difference;
            square[lane] += difference * difference;
        });
    });
    std::vector<double> sum = walk.total(sums), square = walk.total(squares);
    double pixels = double(walk.elements / walk.c);
    for (int64_t i = 0; i < walk.groups * walk.c; i++) {
        double shifted = sum[i] / pixels;
        mean[i] = float(first[i] + shifted);
        var[i] = float(std::max(square[i] / pixels - shifted * shifted, 0.0));
    }
}

template <class T, int TERMS, bool RELU>
void write(const Walk& walk, int threads, const T* const* x, const std::vector<float>* scale,
           const std::vector<float>& shift, T* y) {
    walk.chunked(threads, [&](int64_t group, int64_t, int64_t start, int64_t count) {
        int64_t of_group = group * walk.lanes;
        const T *a = x[0] + start, *b = TERMS > 1 ? x[1] + start : nullptr;
        const float *by_a = scale[0].data() + of_group, *by_b = TERMS > 1 ? scale[1].data() + of_group : nullptr;
        const float* plus = shift.data() + of_group;
        T* out = y + start;
        rows(walk.lanes, count, [=](int64_t i, int64_t lane) {
            float value = wide(a[i]) * by_a[lane] + plus[lane];
            if (TERMS > 1) value += wide(b[i]) * by_b[lane];
            narrow(RELU && !(value > 0.f) && value == value ? 0.f : value, out[i]);
        });
    });
}

template <class T>
void sum_of_terms(const Walk& walk, int threads, int terms, const T* const* x, const float* const* scale,
                  const float* shift, bool relu, T* y) {
    std::vector<float> scales[MOST_TERMS], shifts = walk.laned(shift);
    for (int term = 0; term < terms; term++) scales[term] = walk.laned(scale[term]);
    auto run = terms == 1 ? (relu ? write<T, 1, true> : write<T, 1, false>)
                          : (relu ? write<T, 2, true> : write<T, 2, false>);
    run(walk, threads, x, scales, shifts, y);
}

// Sums over pixels of the gradient, and of the gradient times each centred term.
template <class T, int TERMS, bool RELU>
void gradient_sums(const Walk& walk, int threads, const T* gradient, const T* y, const T* const* x,
                   const std::vector<float>* mean, std::vector<float>& plain, std::vector<float>* times) {
    walk.chunked(threads, [&](int64_t group, int64_t index, int64_t start, int64_t count) {
        int64_t of_group = group * walk.lanes, of_chunk = index * walk.lanes;
        const T *g = gradient + start, *out = RELU ? y + start : nullptr;
        const T *a = x[0] + start, *b = TERMS > 1 ? x[1] + start : nullptr;
        const float *mean_a = mean[0].data() + of_group, *mean_b = TERMS > 1 ? mean[1].data() + of_group : nullptr;
        float *sum = plain.data() + of_chunk, *sum_a = times[0].data() + of_chunk;
        float* sum_b = TERMS > 1 ? times[1].data() + of_chunk : nullptr;
        rows(walk.lanes, count, [=](int64_t i, int64_t lane) {
            float value = RELU && !(wide(out[i]) > 0.f) ? 0.f : wide(g[i]);
            sum[lane] += value;
            sum_a[lane] += value * (wide(a[i]) - mean_a[lane]);
            if (TERMS > 1) sum_b[lane] += value * (wide(b[i]) - mean_b[lane]);
        });
    });
}

// Gradient of each term: scale * gradient + slope * x + constant.
template <class T, int TERMS, bool RELU>
void write_gradients(const Walk& walk, int threads, const T* gradient, const T* y, const T* const* x,
                     const std::vector<float>* scale, const std::vector<float>* slope,
                     const std::vector<float>* constant, T* const* of_x) {
    walk.chunked(threads, [&](int64_t group, int64_t, int64_t start, int64_t count) {
        int64_t of_group = group * walk.lanes;
        const T *g = gradient + start, *out = RELU ? y + start : nullptr;
        const T *a = x[0] + start, *b = TERMS > 1 ? x[1] + start : nullptr;
        T *of_a = of_x[0] + start, *of_b = TERMS > 1 ? of_x[1] + start : nullptr;
        const float *by_a = scale[0].data() + of_group, *by_b = TERMS > 1 ? scale[1].data() + of_group : nullptr;
        const float *up_a = slope[0].data() + of_group, *up_b = TERMS > 1 ? slope[1].data() + of_group : nullptr;
        const float *plus_a = constant[0].data() + of_group;
        const float *plus_b = TERMS > 1 ? constant[1].data() + of_group : nullptr;
        rows(walk.lanes, count, [=](int64_t i, int64_t lane) {
            float value = RELU && !(wide(out[i]) > 0.f) ? 0.f : wide(g[i]);
            narrow(value * by_a[lane] + wide(a[i]) * up_a[lane] + plus_a[lane], of_a[i]);
            if (TERMS > 1) narrow(value * by_b[lane] + wide(b[i]) * up_b[lane] + plus_b[lane], of_b[i]);
        });
    });
}

template <class T, int TERMS, bool RELU>
void backward(const Walk& walk, int threads, const T* gradient, const T* y, const T* const* x,
              const float* const* weight, const float* const* mean, const float* const* var, float eps,
              T* const* of_x, float* const* of_weight, float* of_bias) {
    int64_t channels = walk.groups * walk.c;
    std::vector<float> means[MOST_TERMS], times[MOST_TERMS], plain(walk.groups * walk.chunks * walk.lanes, 0.f);
    std::vector<float> zeros(channels, 0.f);
    for (int term = 0; term < TERMS; term++) {
        means[term] = walk.laned(weight[term] ? mean[term] : zeros.data());
        times[term].assign(plain.size(), 0.f);
    }
    gradient_sums<T, TERMS, RELU>(walk, threads, gradient, y, x, means, plain, times);
    std::vector<double> sum = walk.total(plain);
    for (int64_t i = 0; i < channels; i++) of_bias[i] = float(sum[i]);
    std::vector<float> scales[MOST_TERMS], slopes[MOST_TERMS], constants[MOST_TERMS];
    double pixels = double(walk.elements / walk.c);
    for (int term = 0; term < TERMS; term++) {
        std::vector<float> scale(channels, 1.f), slope(channels, 0.f), constant(channels, 0.f);
        std::vector<double> product = walk.total(times[term]);
        for (int64_t i = 0; weight[term] && i < channels; i++) {
            double inverse = 1.0 / std::sqrt(double(var[term][i]) + eps);
            of_weight[term][i] = float(product[i] * inverse);
            double by = weight[term][i] * inverse, up = -by * inverse * inverse * product[i] / pixels;
            scale[i] = float(by);
            slope[i] = float(up);
            constant[i] = float(-by * sum[i] / pixels - up * mean[term][i]);
        }
        scales[term] = walk.laned(scale.data());
        slopes[term] = walk.laned(slope.data());
        constants[term] = walk.laned(constant.data());
    }
    write_gradients<T, TERMS, RELU>(walk, threads, gradient, y, x, scales, slopes, constants, of_x);
}

template <class T>
void backward(const Walk& walk, int threads, int terms, bool relu, const T* gradient, const T* y, const T* const* x,
              const float* const* weight, const float* const* mean, const float* const* var, float eps,
              T* const* of_x, float* const* of_weight, float* of_bias) {
    auto run = terms == 1 ? (relu ? backward<T, 1, true> : backward<T, 1, false>)
                          : (relu ? backward<T, 2, true> : backward<T, 2, false>);
    run(walk, threads, gradient, y, x, weight, mean, var, eps, of_x, of_weight, of_bias);
}

}  // namespace

// Features hold bfloat16 numbers if `half` is not 0, else float32. Arrays have one entry a term; the weight is null for
// a term that is added as it is.
extern "C" {

void batch_norm_moments(int half, int threads, int64_t groups, int64_t pixels, int64_t c, const void* x, float* mean,
                        float* var) {
    Walk walk(groups, pixels, c);
    if (half)
        moments(walk, threads, (const bfloat16*)x, mean, var);
    else
        moments(walk, threads, (const float*)x, mean, var);
}

void batch_norm_sum(int half, int threads, int64_t groups, int64_t pixels, int64_t c, int terms, const void* const* x,
                    const float* const* weight, const float* const* bias, const float* const* mean,
                    const float* const* var, float eps, int relu, void* y) {
    Walk walk(groups, pixels, c);
    std::vector<float> scale[MOST_TERMS], shift(groups * c, 0.f);
    const float* scales[MOST_TERMS];
    for (int term = 0; term < terms; term++) {
        scale[term].assign(groups * c, 1.f);
        for (int64_t i = 0; weight[term] && i < groups * c; i++) {
            scale[term][i] = weight[term][i] / std::sqrt(var[term][i] + eps);
            shift[i] += bias[term][i] - mean[term][i] * scale[term][i];
        }
        scales[term] = scale[term].data();
    }
    if (half)
        sum_of_terms(walk, threads, terms, (const bfloat16* const*)x, scales, shift.data(), relu, (bfloat16*)y);
    else
        sum_of_terms(walk, threads, terms, (const float* const*)x, scales, shift.data(), relu, (float*)y);
}

void batch_norm_gradients(int half, int threads, int64_t groups, int64_t pixels, int64_t c, int terms,
                          const void* const* x, const float* const* weight, const float* const* mean,
                          const float* const* var, float eps, int relu, const void* y, const void* gradient,
                          void* const* of_x, float* const* of_weight, float* of_bias) {
    Walk walk(groups, pixels, c);
    if (half)
        backward(walk, threads, terms, relu, (const bfloat16*)gradient, (const bfloat16*)y, (const bfloat16* const*)x,
                 weight, mean, var, eps, (bfloat16* const*)of_x, of_weight, of_bias);
    else
        backward(walk, threads, terms, relu, (const float*)gradient, (const float*)y, (const float* const*)x, weight,
                 mean, var, eps, (float* const*)of_x, of_weight, of_bias);
}
}
