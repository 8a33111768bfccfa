# Train and export the shipped students: a long day on two cores. Usage: sh training/shipped.sh MASSIVE GENERIC CLINC150 OUT
# MASSIVE: a source that --data takes. GENERIC: a folder of plain sentences, one a line, GENERIC/<language>/<source>.txt.gz
# (Tatoeba, Common Voice, XED and voice prompts to learn from, FLORES/NTREX and ELTeC to measure scope on; the notices in
# docs/notices say where they come from). CLINC150: its data_full.json, whose out-of-scope part measures scope in English.
set -eu
massive=$1 generic=$2 clinc150=$3 out=$4
python=${BIN:-.venv/bin}/python
locales=de-DE,fr-FR,it-IT,es-ES,en-US
related=ca-ES,pt-PT,ro-RO,nl-NL,da-DK,sv-SE,nb-NO,af-ZA
corpus= no_requests=
for language in de fr it es en; do
    for source in tatoeba common_voice xed voice_prompts; do
        corpus="$corpus${corpus:+,}$generic/$language/$source.txt.gz"
    done
    for source in tatoeba xed; do
        no_requests="$no_requests${no_requests:+,}$generic/$language/$source.txt.gz"
    done
done
finetune() {
    "$python" -m training.finetune --data "$massive" --locales "$locales" "$@"
}
export_student() {
    set -- "$@" --out-of-scope "en-US=$generic/en/flores_ntrex.txt.gz,$clinc150"
    for locale in de-DE fr-FR it-IT es-ES; do
        folder=$generic/${locale%-*}
        set -- "$@" --out-of-scope "$locale=$folder/flores_ntrex.txt.gz,$folder/eltec.txt.gz"
    done
    "$python" -m export.onnx --data "$massive" "$@"
}

# Two teachers from labelled text alone, in related languages first
finetune --size s --extra-locales "$related" --epochs 20 --out "$out/s"
finetune --size s --init "$out/s" --epochs 8 --learning-rate 5e-4 --out "$out/s2"
# A third that has read plain sentences, from which the student starts
"$python" -m training.pretrain --corpus "$corpus" --data "$massive" --locales "$locales" --tokenizer-lines 150000 \
    --size s --out "$out/p"
finetune --size s --init "$out/p" --epochs 14 --learning-rate 5e-4 --out "$out/f"
finetune --size s --init "$out/f" --epochs 20 --learning-rate 1e-3 --augmented-share 0.3 --out "$out/f2"
# The student imitates the three, and learns low confidence on out-of-scope text
finetune --size s --init "$out/f2" --teacher "$out/s,$out/s2,$out/f2" --epochs 10 --learning-rate 7e-4 \
    --augmented-share 0.3 --average 0.998 --out-of-scope "$no_requests" --out "$out/ko"
export_student --ckpt "$out/ko" --out "$out/students/s" --notice docs/notices/s.md

# The smallest imitates it, as exported (the recipe finds it as ../students/s, beside --out), and two others
"$python" -m training.ladder --recipe training/recipes/ladder-shipped.toml --data "$massive" --generic "$generic" \
    --out "$out/ladder" --jobs 2
export_student --ckpt "$out/ladder/runs/xs" --out "$out/students/xs" --notice docs/notices/xs.md
