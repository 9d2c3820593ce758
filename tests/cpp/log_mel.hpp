// The log-mel that clients of generation 2 compute themselves, as NeMo's FilterbankFeatures does for these models:
// pre-emphasis 0.97, frames of 25 ms every 10 ms centred in zero padding, symmetric Hann window, 512 points, power,
// Slaney's mel scale and areas up to half the sample rate, natural logarithm of the energy plus 2^-24.
#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

class LogMel {
public:
    LogMel(std::size_t sample_rate, std::size_t features)
        : features_(features), hop_(sample_rate / 100), window_(sample_rate / 40) {
        const double pi = std::acos(-1.0);
        cosines_.resize(window_ * bins);
        sines_.resize(window_ * bins);
        for (std::size_t tap = 0; tap < window_; ++tap) {
            const double hann = 0.5 - 0.5 * std::cos(2 * pi * tap / (window_ - 1));
            for (std::size_t bin = 0; bin < bins; ++bin) {
                const double angle = 2 * pi * ((tap * bin) % points) / points;
                cosines_[tap * bins + bin] = static_cast<float>(hann * std::cos(angle));
                sines_[tap * bins + bin] = static_cast<float>(hann * std::sin(angle));
            }
        }
        filters_.assign(features * bins, 0.0F);
        const double top = mel(sample_rate / 2.0);
        const auto edge = [&](std::size_t i) { return hertz(top * i / (features + 1)); };
        for (std::size_t feature = 0; feature < features; ++feature) {
            const double low = edge(feature), centre = edge(feature + 1), high = edge(feature + 2);
            for (std::size_t bin = 0; bin < bins; ++bin) {
                const double at = static_cast<double>(sample_rate) * bin / points;
                const double height = std::fmin((at - low) / (centre - low), (high - at) / (high - centre));
                filters_[feature * bins + bin] = static_cast<float>(std::fmax(0.0, height) * 2 / (high - low));
            }
        }
    }

    /// Log-mel of one chunk, [features, frames + 1] row by row: frames = samples / hop, then one frame of zeros.
    std::vector<float> operator()(const std::vector<float>& chunk) const {
        const std::size_t frames = chunk.size() / hop_;
        std::vector<float> mel(features_ * (frames + 1), 0.0F);
        std::vector<float> real(bins), imaginary(bins);
        for (std::size_t frame = 0; frame < frames; ++frame) {
            real.assign(bins, 0.0F);
            imaginary.assign(bins, 0.0F);
            for (std::size_t tap = 0; tap < window_; ++tap) {
                const std::size_t at = frame * hop_ + tap; // in the chunk with half a window of zeros before it
                if (at < window_ / 2 || at - window_ / 2 >= chunk.size())
                    continue;
                const std::size_t now = at - window_ / 2;
                const float sample = chunk[now] - (now ? 0.97F * chunk[now - 1] : 0.0F);
                for (std::size_t bin = 0; bin < bins; ++bin) {
                    real[bin] += sample * cosines_[tap * bins + bin];
                    imaginary[bin] += sample * sines_[tap * bins + bin];
                }
            }
            for (std::size_t feature = 0; feature < features_; ++feature) {
                float energy = 0.0F;
                for (std::size_t bin = 0; bin < bins; ++bin)
                    energy += filters_[feature * bins + bin] *
                              (real[bin] * real[bin] + imaginary[bin] * imaginary[bin]);
                mel[feature * (frames + 1) + frame] = std::log(energy + std::ldexp(1.0F, -24));
            }
        }
        return mel;
    }

private:
    static constexpr std::size_t points = 512, bins = points / 2 + 1;

    // Slaney's scale: linear below 1 kHz, where 3 mel are 200 Hz, logarithmic above.
    static double mel(double hertz) {
        return hertz < 1000 ? 3 * hertz / 200 : 15 + 27 * std::log(hertz / 1000) / std::log(6.4);
    }
    static double hertz(double mel) { return mel < 15 ? 200 * mel / 3 : 1000 * std::pow(6.4, (mel - 15) / 27); }

    std::size_t features_, hop_, window_;
    std::vector<float> cosines_, sines_; // [window, bins], the window inside
    std::vector<float> filters_;         // [features, bins]
};
