// Transcribes recordings with a finished folder, as the eddy-audio clients do. Read transcribe() first.
//
//   nemotron_client FOLDER AUDIO.wav… [--language auto] [--precision default|f32] [--generation 1|2]
//
// Prints one JSON object a recording: its tokens, its text, and the language tag that came first.

#include <openvino/openvino.hpp>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "log_mel.hpp"
#include "wav.hpp"

using nlohmann::json;
using Floats = std::vector<float>;

namespace {

constexpr int max_symbols = 10; // most tokens of one frame

json read_json(const std::string& path) {
    std::ifstream file(path);
    if (!file)
        throw std::runtime_error(path + ": cannot be opened; give a folder that nemotron-ov wrote");
    try {
        return json::parse(file);
    } catch (const json::exception& error) {
        throw std::runtime_error(path + ": is no JSON (" + error.what() + "); regenerate the folder");
    }
}

/// The prompt of a language: its key, else of a two-letter code the first key "xx-…" in byte order, else the default.
int prompt_id(const json& metadata, std::string language) {
    const json prompts = metadata.value("prompt_dictionary", json::object()); // std::map: in byte order
    if (prompts.contains(language))
        return prompts[language];
    if (language.size() == 2) {
        for (char& letter : language)
            letter = static_cast<char>(std::tolower(static_cast<unsigned char>(letter)));
        for (const auto& [key, id] : prompts.items())
            if (key.compare(0, 3, language + "-") == 0)
                return id;
    }
    return metadata.at("default_prompt_id");
}

void zero(ov::Tensor tensor) { std::fill_n(static_cast<char*>(tensor.data()), tensor.get_byte_size(), 0); }

/// A graph of the folder with one request. Tensors are bound by name, inputs are zeroed once.
class Graph {
public:
    Graph(ov::Core& core, const std::string& folder, const std::string& name, const ov::AnyMap& properties)
        : compiled_(core.compile_model(folder + "/nemotron_" + name + ".xml", "CPU", properties)),
          request_(compiled_.create_infer_request()) {}

    bool has_input(const std::string& name) const {
        const auto& inputs = compiled_.inputs();
        return std::any_of(inputs.begin(), inputs.end(), [&](const auto& port) { return port.get_names().count(name); });
    }

    /// A zeroed tensor for an input, in the element type that the graph declares.
    ov::Tensor input(const std::string& name, const ov::Shape& shape) {
        ov::Tensor tensor(compiled_.input(name).get_element_type(), shape);
        zero(tensor);
        request_.set_tensor(name, tensor);
        return tensor;
    }

    ov::Tensor output(const std::string& name) { return request_.get_tensor(name); }
    void run() { request_.infer(); }

private:
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
};

/// Writes one integer to an i32 or i64 tensor.
void set_integer(ov::Tensor tensor, std::int64_t value) {
    if (tensor.get_element_type() == ov::element::i64)
        *tensor.data<std::int64_t>() = value;
    else
        *tensor.data<std::int32_t>() = static_cast<std::int32_t>(value);
}

class Client {
public:
    Client(const std::string& folder, int generation, const ov::AnyMap& properties)
        : metadata_(read_json(folder + "/metadata.json")),
          vocabulary_(read_json(folder + "/nemotron_vocab.json")),
          encoder_(core_, folder, "encoder", properties),
          decoder_(core_, folder, "decoder", properties),
          joint_(core_, folder, "joint", properties),
          sample_rate_(metadata_.at("sample_rate")),
          features_(metadata_.at("mel_features")),
          chunk_frames_(metadata_.at("chunk_mel_frames")),
          carried_frames_(metadata_.at("pre_encode_cache")),
          window_frames_(metadata_.at("total_mel_frames")),
          blank_(metadata_.at("blank_idx")) {
        const std::size_t chunk = chunk_frames_ * sample_rate_ / 100; // frames of 10 ms
        if (chunk == 0 || window_frames_ < carried_frames_)
            throw std::runtime_error(folder + "/metadata.json: its chunk is empty; regenerate the folder");
        chunk_.resize(chunk);
        if (generation == 1) {
            preprocessor_ = std::make_unique<Graph>(core_, folder, "preprocessor", properties);
            audio_ = preprocessor_->input("audio", {1, chunk});
            set_integer(preprocessor_->input("audio_length", {1}), static_cast<std::int64_t>(chunk));
        } else {
            log_mel_ = std::make_unique<LogMel>(sample_rate_, features_);
        }
        window_ = encoder_.input("mel", {1, features_, window_frames_});
        set_integer(encoder_.input("mel_length", {1}), static_cast<std::int64_t>(window_frames_));
        caches_["cache_channel"] = encoder_.input("cache_channel", metadata_.at("cache_channel_shape"));
        caches_["cache_time"] = encoder_.input("cache_time", metadata_.at("cache_time_shape"));
        caches_["cache_len"] = encoder_.input("cache_len", {1});
        if (encoder_.has_input("prompt_id")) // not in the English sibling
            prompt_ = encoder_.input("prompt_id", {1});

        const std::size_t layers = metadata_.at("decoder_layers"), hidden = metadata_.at("decoder_hidden");
        token_ = decoder_.input("token", {1, 1});
        set_integer(decoder_.input("token_length", {1}), 1);
        states_["h"] = decoder_.input("h_in", {layers, 1, hidden});
        states_["c"] = decoder_.input("c_in", {layers, 1, hidden});
        joint_encoder_ = joint_.input("encoder", {1, encoder_.output("encoded").get_shape()[1], 1});
        joint_decoder_ = joint_.input("decoder", {1, hidden, 1});
    }

    /// Tokens of one recording, from cold caches: chunk → log-mel → window with carried frames → encoder → greedy RNN-T.
    std::vector<int> transcribe(const Floats& samples, const std::string& language) {
        for (auto& [name, cache] : caches_)
            zero(cache);
        for (auto& [name, state] : states_)
            zero(state);
        if (prompt_)
            set_integer(prompt_, prompt_id(metadata_, language));
        set_integer(token_, blank_);

        std::vector<int> tokens;
        Floats carried(features_ * carried_frames_, 0.0F); // [features, lead]: zeros before the first chunk
        std::size_t lead = carried_frames_;
        for (std::size_t begin = 0; begin < samples.size(); begin += chunk_.size()) {
            const std::size_t taken = std::min(chunk_.size(), samples.size() - begin);
            std::copy_n(samples.begin() + static_cast<std::ptrdiff_t>(begin), taken, chunk_.begin());
            std::fill(chunk_.begin() + static_cast<std::ptrdiff_t>(taken), chunk_.end(), 0.0F);

            const Floats mel = mel_of_chunk(); // [features, frames]
            const std::size_t frames = mel.size() / features_;
            fill_window(carried, lead, mel, frames);
            // The next window begins with the last frames of this chunk, or with all where there are fewer.
            lead = std::min(carried_frames_, frames);
            carried = last_frames(mel, frames, lead);

            encoder_.run();
            for (auto& [name, cache] : caches_)
                encoder_.output(name + "_out").copy_to(cache);
            emit(encoder_.output("encoded"), tokens);
        }
        return tokens;
    }

    /// The tokens' pieces without tags, "▁" as a space, trimmed; and the first tag, or null.
    std::pair<std::string, json> text(const std::vector<int>& tokens) const {
        const std::string word_start = "\u2581";
        const auto& tags = metadata_.at("lang_tag_token_ids");
        std::string text;
        json language;
        for (const int token : tokens) {
            if (token >= metadata_.at("vocab_size").get<int>())
                continue;
            const std::string piece = vocabulary_.at(std::to_string(token));
            if (std::find(tags.begin(), tags.end(), token) == tags.end())
                text += piece;
            else if (language.is_null())
                language = piece;
        }
        for (std::size_t at; (at = text.find(word_start)) != std::string::npos;)
            text.replace(at, word_start.size(), " ");
        const auto first = text.find_first_not_of(' '), last = text.find_last_not_of(' ');
        return {first == std::string::npos ? "" : text.substr(first, last - first + 1), language};
    }

    std::uint32_t sample_rate() const { return static_cast<std::uint32_t>(sample_rate_); }

private:
    /// Log-mel of the chunk alone. Generation 1: what the preprocessor graph returns. Generation 2: its own, a frame
    /// of zeros at the end.
    Floats mel_of_chunk() {
        if (log_mel_)
            return (*log_mel_)(chunk_);
        std::copy(chunk_.begin(), chunk_.end(), audio_.data<float>());
        preprocessor_->run();
        const ov::Tensor mel = preprocessor_->output("mel");
        return {mel.data<const float>(), mel.data<const float>() + mel.get_size()};
    }

    /// The encoder's input: the carried frames, then this chunk's, cut to the window.
    void fill_window(const Floats& carried, std::size_t lead, const Floats& mel, std::size_t frames) {
        const std::size_t taken = std::min(frames, window_frames_ - lead);
        zero(window_);
        for (std::size_t feature = 0; feature < features_; ++feature) {
            float* row = window_.data<float>() + feature * window_frames_;
            std::copy_n(carried.data() + feature * lead, lead, row);
            std::copy_n(mel.data() + feature * frames, taken, row + lead);
        }
    }

    Floats last_frames(const Floats& mel, std::size_t frames, std::size_t count) const {
        Floats last(features_ * count);
        for (std::size_t feature = 0; feature < features_; ++feature)
            std::copy_n(mel.data() + (feature + 1) * frames - count, count, last.data() + feature * count);
        return last;
    }

    /// Greedy tokens of one step's frames. The prediction network's state moves only when a token comes out.
    void emit(const ov::Tensor& encoded, std::vector<int>& tokens) { // [1, dim, frames]
        const std::size_t dim = encoded.get_shape()[1], frames = encoded.get_shape()[2];
        for (std::size_t frame = 0; frame < frames; ++frame) {
            for (std::size_t i = 0; i < dim; ++i)
                joint_encoder_.data<float>()[i] = encoded.data<const float>()[i * frames + frame];
            for (int symbol = 0; symbol < max_symbols; ++symbol) {
                decoder_.run();
                decoder_.output("decoder_out").copy_to(joint_decoder_);
                joint_.run();
                const ov::Tensor logits = joint_.output("logits");
                const float* first = logits.data<const float>();
                const int token = static_cast<int>(std::max_element(first, first + logits.get_size()) - first);
                if (token == blank_)
                    break;
                for (auto& [name, state] : states_)
                    decoder_.output(name + "_out").copy_to(state);
                set_integer(token_, token);
                tokens.push_back(token);
            }
        }
    }

    ov::Core core_;
    json metadata_, vocabulary_;
    Graph encoder_, decoder_, joint_;
    std::unique_ptr<Graph> preprocessor_; // generation 1
    std::unique_ptr<LogMel> log_mel_;     // generation 2
    std::size_t sample_rate_, features_, chunk_frames_, carried_frames_, window_frames_;
    int blank_;
    Floats chunk_;
    ov::Tensor audio_, window_, prompt_, token_, joint_encoder_, joint_decoder_;
    std::map<std::string, ov::Tensor> caches_, states_;
};

struct Options {
    std::vector<std::string> places; // the folder, then the recordings
    std::map<std::string, std::string> values = {
        {"--language", "auto"}, {"--precision", "default"}, {"--generation", "1"}};
};

Options options_of(int count, char** arguments) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string word = arguments[i];
        if (options.values.count(word) && i + 1 < count)
            options.values[word] = arguments[++i];
        else if (word.rfind("--", 0) == 0)
            throw std::invalid_argument(word + ": no such option, or no value after it");
        else
            options.places.push_back(word);
    }
    const auto& precision = options.values["--precision"];
    const auto& generation = options.values["--generation"];
    if (precision != "default" && precision != "f32")
        throw std::invalid_argument("--precision " + precision + ": give default or f32");
    if (generation != "1" && generation != "2")
        throw std::invalid_argument("--generation " + generation + ": give 1 or 2");
    if (options.places.size() < 2)
        throw std::invalid_argument(
            "nemotron_client FOLDER AUDIO.wav… [--language auto] [--precision default|f32] [--generation 1|2]");
    return options;
}

/// One line on stderr, whatever a library says.
int fail(std::string reason) {
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    std::cerr << "error: " << reason << std::endl;
    return 2;
}

} // namespace

int main(int count, char** arguments) {
    try {
        Options options = options_of(count, arguments);
        ov::AnyMap properties; // the clients set none: where the processor has bf16, OpenVINO computes in it
        if (options.values["--precision"] == "f32")
            properties.insert(ov::hint::inference_precision(ov::element::f32));
        Client client(options.places[0], std::stoi(options.values["--generation"]), properties);
        for (std::size_t i = 1; i < options.places.size(); ++i) {
            const std::string& place = options.places[i];
            const auto tokens = client.transcribe(wav::read(place, client.sample_rate()), options.values["--language"]);
            const auto [text, language] = client.text(tokens);
            const json line = {{"audio", place}, {"tokens", tokens}, {"text", text}, {"language", language}};
            std::cout << line.dump() << std::endl;
        }
        return 0;
    } catch (const json::exception& error) {
        return fail(std::string("metadata.json or nemotron_vocab.json: ") + error.what());
    } catch (const std::exception& error) {
        return fail(error.what());
    }
}
