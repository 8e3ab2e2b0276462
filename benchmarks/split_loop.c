/* flash_attn 2.8's num_splits of every point of a sweep, one call of the heuristic per point.

   split_loop FIRST_BATCH LAST_BATCH LAST_SEQLEN_K SLOTS: decode calls of 4 KV heads x 128, seqlen_k from 1.
   Prints the sum of all split counts, how often they change along seqlen_k, and last the CPU time in seconds.
   Written from csrc/flash_attn/flash_api.cpp, apart from attnprof, whose answers it is compared with. */

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int ceildiv(int a, int b) { return (a + b - 1) / b; }

__attribute__((noinline)) static int num_splits(int blocks, int slots, int n_blocks, int most) {
    if (blocks >= 0.8f * slots) return 1;
    if (most > slots) most = slots;
    if (most > n_blocks) most = n_blocks;
    float best = 0.f, efficiency[128];
    for (int splits = 1; splits <= most; splits++) {
        efficiency[splits - 1] = 0.f;
        if (splits > 1 && ceildiv(n_blocks, splits) == ceildiv(n_blocks, splits - 1)) continue;
        float waves = (float)(blocks * splits) / slots;
        float reached = waves / ceilf(waves);
        if (reached > best) best = reached;
        efficiency[splits - 1] = reached;
    }
    for (int splits = 1; splits <= most; splits++) {
        if (splits > 1 && ceildiv(n_blocks, splits) == ceildiv(n_blocks, splits - 1)) continue;
        if (efficiency[splits - 1] >= 0.85 * best) return splits;
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 5) return 1;
    int first = atoi(argv[1]), last = atoi(argv[2]), keys = atoi(argv[3]), slots = atoi(argv[4]);
    clock_t began = clock();
    int16_t *found = malloc((size_t)(last - first + 1) * keys * sizeof *found);
    if (!found) return 1;
    int64_t sum = 0, changes = 0;
    for (int batch = first; batch <= last; batch++) {
        int16_t *row = found + (size_t)(batch - first) * keys;
        for (int seqlen_k = 1; seqlen_k <= keys; seqlen_k++) {
            row[seqlen_k - 1] = (int16_t)num_splits(batch * 4, slots, ceildiv(seqlen_k, 128), 128);
            sum += row[seqlen_k - 1];
            changes += seqlen_k > 1 && row[seqlen_k - 1] != row[seqlen_k - 2];
        }
    }
    printf("%lld %lld\n%.6f\n", (long long)sum, (long long)changes, (double)(clock() - began) / CLOCKS_PER_SEC);
    free(found);
    return 0;
}
