// Mono WAV files: integer PCM of 16, 24 or 32 bits, or 32-bit floats.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace wav {

inline std::uint32_t little_endian(const std::string& bytes, std::size_t at, std::size_t size) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i)
        value |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
    return value;
}

/// Samples of a recording, ±1. Throws std::runtime_error where the file is none, or has another rate or more channels.
inline std::vector<float> read(const std::string& path, std::uint32_t sample_rate) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        throw std::runtime_error(path + ": cannot be opened; give a WAV file");
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    if (bytes.size() < 12 || bytes.compare(0, 4, "RIFF") || bytes.compare(8, 4, "WAVE"))
        throw std::runtime_error(path + ": is no WAV file; convert it first");

    std::uint32_t format = 0, channels = 0, rate = 0, bits = 0;
    for (std::size_t at = 12; at + 8 <= bytes.size();) {
        const std::string name = bytes.substr(at, 4);
        const std::size_t begin = at + 8;
        const std::size_t promised = little_endian(bytes, at + 4, 4), size = std::min(promised, bytes.size() - begin);
        if (name == "fmt " && size >= 16) {
            format = little_endian(bytes, begin, 2);
            channels = little_endian(bytes, begin + 2, 2);
            rate = little_endian(bytes, begin + 4, 4);
            bits = little_endian(bytes, begin + 14, 2);
            if (format == 0xFFFE && size >= 26) // "extensible": the format is the first part of its identifier
                format = little_endian(bytes, begin + 24, 2);
        } else if (name == "data" && promised) {
            if (size < promised && promised < 0xFFFFFF00) // recorders that do not know the length write the largest
                throw std::runtime_error(path + ": ends after " + std::to_string(size) + " of " +
                                         std::to_string(promised) + " bytes; get the whole file");
            const bool is_float = format == 3 && bits == 32;
            const bool is_integer = format == 1 && (bits == 16 || bits == 24 || bits == 32);
            if (channels != 1 || rate != sample_rate || !(is_float || is_integer))
                throw std::runtime_error(path + ": has " + std::to_string(channels) + " channels at " +
                                         std::to_string(rate) + " Hz in " + std::to_string(bits) +
                                         " bits; convert it to 16-bit mono at " + std::to_string(sample_rate) + " Hz");
            const std::size_t width = bits / 8;
            std::vector<float> samples(size / width);
            for (std::size_t i = 0; i < samples.size(); ++i) {
                const std::uint32_t value = little_endian(bytes, begin + i * width, width);
                if (is_float)
                    std::memcpy(&samples[i], &value, sizeof value);
                else // moved to the highest bits, so that the sign is where int32_t has it
                    samples[i] = static_cast<float>(static_cast<std::int32_t>(value << (32 - bits)) / 2147483648.0);
            }
            return samples;
        }
        at = begin + size + size % 2;
    }
    throw std::runtime_error(path + ": holds no audio; record it again");
}

} // namespace wav
