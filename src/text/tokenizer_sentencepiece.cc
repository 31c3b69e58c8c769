/*
 * SentencePiece models, by the library of that name; see tokenizer.h. No exception and
 * no type of C++ leaves this file.
 */
#include "text/tokenizer_kinds.h"

#include <sentencepiece_processor.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace
{

const char   SPACE[] = "\xe2\x96\x81"; /* what stands for a space in a piece */
const size_t SPACE_BYTES = sizeof SPACE - 1;

struct model {
    sentencepiece::SentencePieceProcessor processor;
    std::vector<std::string>              text;   /* of every id */
    bool                                  prefix; /* a space is put before a text */
};

bool starts_with_space(const std::string &piece)
{
    return piece.compare(0, SPACE_BYTES, SPACE) == 0;
}

/* Bytes that an id stands for: none if it is BOS, EOS or padding. */
std::string text_of(const sentencepiece::SentencePieceProcessor &processor, int id)
{
    std::string piece = processor.IdToPiece(id), text;

    if (processor.IsControl(id)) {
        return text;
    }
    if (processor.IsUnknown(id)) {
        return " \xe2\x81\x87 "; /* as the library writes what it does not know */
    }
    if (processor.IsByte(id)) { /* <0xHH> */
        return std::string(1, (char) std::strtol(piece.c_str() + 3, nullptr, 16));
    }
    for (size_t at = 0; at < piece.size();) {
        bool space = piece.compare(at, SPACE_BYTES, SPACE) == 0;

        text += space ? ' ' : piece[at];
        at += space ? SPACE_BYTES : 1;
    }
    return text;
}

int load(std::unique_ptr<model> &m, const tokenizer_file *file, int64_t vocab,
         int32_t *bos, int32_t *eos, char *error, size_t size)
{
    std::vector<std::string> pieces;
    auto status = m->processor.LoadFromSerializedProto({ file->data, file->bytes });

    if (!status.ok()) {
        std::snprintf(error, size, "%s: not a SentencePiece model: %s", file->path,
                      status.error_message());
        return -1;
    }
    if (m->processor.GetPieceSize() > vocab) {
        std::snprintf(error, size, "%s: has %d pieces, the model's vocabulary is %lld",
                      file->path, m->processor.GetPieceSize(), (long long) vocab);
        return -1;
    }
    for (int id = 0; id < m->processor.GetPieceSize(); id++) {
        m->text.push_back(text_of(m->processor, id));
    }
    if (!m->processor.Encode("a", &pieces).ok()) {
        pieces.clear();
    }
    m->prefix = !pieces.empty() && starts_with_space(pieces[0]);
    *bos = m->processor.bos_id();
    *eos = m->processor.eos_id();
    return 0;
}

int sentencepiece_open(void **state, tokenizer_file *file, int64_t vocab, int32_t *bos,
                       int32_t *eos, char *error, size_t size)
try {
    auto m = std::make_unique<model>();

    if (load(m, file, vocab, bos, eos, error, size) != 0) {
        return -1;
    }
    *state = m.release();
    return 0;
} catch (const std::exception &e) {
    std::snprintf(error, size, "%s: %s", file->path, e.what());
    return -1;
}

void sentencepiece_free(void *state)
{
    delete static_cast<model *>(state);
}

int sentencepiece_encode(const void *state, const char *text, size_t bytes,
                         size_t reserved, int32_t **ids, int64_t *count, char *error,
                         size_t size)
try {
    std::vector<int> list;
    auto             status =
        static_cast<const model *>(state)->processor.Encode({ text, bytes }, &list);
    int32_t *out;

    if (!status.ok()) {
        std::snprintf(error, size, "SentencePiece: %s", status.error_message());
        return -1;
    }
    out = static_cast<int32_t *>(
        std::malloc((reserved + list.size() + 1) * sizeof(int32_t)));
    if (out == nullptr) {
        std::snprintf(error, size, "out of memory for %zu bytes of text", bytes);
        return -1;
    }
    for (size_t i = 0; i < list.size(); i++) {
        out[reserved + i] = list[i];
    }
    *ids = out;
    *count = (int64_t) list.size();
    return 0;
} catch (const std::exception &e) {
    std::snprintf(error, size, "SentencePiece: %s", e.what());
    return -1;
}

/* The space that encoding has put before the text is taken away again. */
const char *sentencepiece_decode(const void *state, int32_t previous, int32_t bos,
                                 int32_t id, size_t *bytes)
{
    const model *m = static_cast<const model *>(state);
    bool         first = previous < 0 || previous == bos;

    if ((size_t) id >= m->text.size()) {
        *bytes = 0;
        return "";
    }
    const std::string &text = m->text[(size_t) id];
    size_t             strip = first && m->prefix && !text.empty() && text[0] == ' ';

    *bytes = text.size() - strip;
    return text.data() + strip;
}

} // namespace

const struct tokenizer_kind tokenizer_sentencepiece = {
    sentencepiece_open, sentencepiece_free, sentencepiece_encode, sentencepiece_decode
};
