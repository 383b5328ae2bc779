// A model's forward pass as a list of operations, run by all threads of the pool in one call.
//
// Python builds the list once from the model's own code, and passes for each step where its rows,
// cache and results lie. Every thread walks the list; operations share their units among threads
// and meet at a barrier.
#pragma once

#include <chrono>
#include <memory>
#include <variant>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace kept {

// Where a layer keeps its keys and values, and in which of the step's layouts.
struct LayerStores {
    Stored keys, values;
    std::int64_t layout;
};

// One step. All pointers are the caller's and outlive the run.
struct Step {
    std::int64_t rows = 0;
    const std::int64_t *tokens = nullptr, *positions = nullptr;
    std::vector<std::int64_t> starts, slots, lengths;
    const std::int64_t* wanted = nullptr;  // rows whose logits are wanted, or null: all
    std::int64_t num_wanted = 0;
    const float *cos = nullptr, *sin = nullptr;
    const std::int64_t* rope_rows = nullptr;
    std::vector<LayoutArgs> layouts;
    std::vector<LayerStores> layers;
    float* logits = nullptr;
    std::int64_t vocabulary = 0;
};

class Program {
  public:
    // Throws std::invalid_argument for a name no kernels of this CPU go by.
    explicit Program(const std::string& isa);
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;

    // Adds rows of `width` numbers; returns their name. `is_bf16`: what a linear layer reads.
    int add_buffer(std::int64_t width, bool is_bf16);
    int add_weights(const Weights& weights);

    // num_positions: rows of the position table, which may be null.
    void embed(int table, const float* position_table, std::int64_t num_positions, int out);
    void norm(int x, const float* weight, const float* bias, float eps, int out, bool wanted);
    void linear(int in, int weights, Epilogue epilogue, Activation activation, int out,
                bool wanted);
    void place(int qkv, int queries, std::int64_t layer, const AttentionShape& shape,
               const float* q_norm, const float* k_norm, float eps, std::int64_t rope_dim);
    void attend(int queries, std::int64_t layer, const AttentionShape& shape, int out);

    std::int64_t num_ops() const { return static_cast<std::int64_t>(ops_.size()); }

    // Runs operations [first, last). Mutates the buffers, the layers' stores and the logits.
    // Throws std::bad_alloc, or std::out_of_range for a token, position or wanted row that does
    // not exist, before anything is stored.
    void run(const Step& step, std::int64_t first, std::int64_t last);

    // The largest logit of each wanted row of the last run.
    const std::vector<Best>& best() const { return best_; }
    // Rows of an fp32 buffer as the last run left them, (rows, width).
    void read_buffer(int buffer, std::int64_t rows, float* out) const;
    void read_queries(int buffer, std::int64_t rows, const AttentionShape& shape, bool floats,
                      float* out) const;
    // Puts rows of queries (rows, H, D) where `place` would: floats over fp32 and fp16 keys, bf16
    // over others. For a program that attends and nothing else; every run needs them anew.
    void write_queries(int buffer, std::int64_t rows, const AttentionShape& shape, bool floats,
                       const std::byte* in);

    // Seconds by kind of operation, of the calling thread, since profiling began.
    void profile(bool on);
    struct Spent {
        double embed = 0, norm = 0, linear = 0, place = 0, attend = 0, head = 0, waiting = 0,
               total = 0;
    };
    const Spent& spent() const { return spent_; }

  private:
    struct Buffer {
        std::int64_t width = 0, stride = 0, rows = 0;
        bool is_bf16 = false;
        std::unique_ptr<std::byte, void (*)(void*)> memory{nullptr, nullptr};
    };
    struct Embed {
        int table;
        const float* position_table;
        std::int64_t num_positions;
        int out;
    };
    struct Norm {
        int x;
        const float *weight, *bias;
        float eps;
        int out;
        bool wanted;
    };
    struct Linear {
        int in, weights;
        Epilogue epilogue;
        Activation activation;
        int out;
        bool wanted;
    };
    struct Place {
        int qkv, queries;
        std::int64_t layer;
        AttentionShape shape;
        const float *q_norm, *k_norm;
        float eps;
        std::int64_t rope_dim;
    };
    struct Attend {
        int queries;
        std::int64_t layer;
        AttentionShape shape;
        int out;
    };
    using Op = std::variant<Embed, Norm, Linear, Place, Attend>;

    // The units of an attention, shared by layers of the same shape and layout.
    struct AttendPlan {
        AttentionShape shape;
        std::int64_t layout;
        std::vector<AttendUnit> units, merges;
        std::int64_t floats = 0;  // of partial results
    };
    struct Run;

    void check(const Step& step) const;
    static void grow(Buffer& b, std::int64_t rows);
    void reserve(const Step& step);
    ActRows act(int buffer) const;
    float* floats(int buffer) const;
    const AttendPlan& plan(const Step& step, const Attend& op);
    AttendPlan make_plan(const Step& step, const AttentionShape& shape, std::int64_t layout) const;
    void work(Run& run, int thread);
    void operate(Run& run, int thread, const Op& op, std::int64_t index);

    const Kernels* kernels_;
    std::vector<Buffer> buffers_;
    std::vector<Weights> weights_;
    std::vector<Op> ops_;
    std::vector<AttendPlan> plans_;
    std::vector<float> partials_;
    std::vector<std::vector<float>> scratch_;
    std::vector<std::int32_t> row_sequence_;
    std::vector<std::vector<Best>> thread_best_;
    std::vector<Best> best_;
    bool profiling_ = false;
    Spent spent_;
};

}  // namespace kept
