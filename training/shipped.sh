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

# A first xs imitates the three as well
export_student --ckpt "$out/ko" --out "$out/students/s" --notice docs/notices/s.md
"$python" -m training.ladder --recipe training/recipes/ladder-shipped.toml --data "$massive" --generic "$generic" \
    --out "$out/ladder" --jobs 2
rm -r "$out/students"

# Both imitate the fine-tuned multilingual-e5-small on more text: rewordings, near sentences, voice prompts.
# docs/training.md, "Starting from a pretrained encoder", has the commands of students/l.
"$python" -m training.corpus pool --data "$massive" --locales "$locales" --generic "$generic" --teacher students/l \
    --teacher-cache "$out/logits" --views 0 --substitutions 0 --rewordings 2 --candidates 12000 --nearest 5000 --out "$out/pool"
"$python" -m training.corpus statements --data "$massive" --locales "$locales" --generic "$generic" \
    --spoken tatoeba,xed,common_voice --out "$out/statements"
# The 100 out-of-scope questions that CLINC150 has for training, repeated to be drawn often enough
"$python" -c 'import gzip, json, sys
source, target = sys.argv[1:]
read = gzip.open if source.endswith(".gz") else open
with read(source, "rt") as file, open(target, "w") as lines:
    lines.write("".join(f"{text}\n" for text, _ in json.load(file)["oos_train"]) * 150)' "$clinc150" "$out/clinc.txt"
no_requests="$no_requests,$out/clinc.txt"
for locale in de-DE fr-FR it-IT es-ES en-US; do
    no_requests="$no_requests,$locale=$out/statements/$locale.txt.gz"
done
imitate() {
    finetune --teacher students/l --teacher-cache "$out/logits" --views 4 --unlabelled "$out/pool" --batch-size 64 \
        --label-smoothing 0 --augmented-share 0.4 --substituted-share 0.2 --unknown-share 0.05 --average 0.998 \
        --out-of-scope "$no_requests" --out-of-scope-share 0.15 "$@"
}
imitate --size s --init "$out/ko" --epochs 9 --learning-rate 7e-4 --dropout 0.1 --unlabelled-share 0.5 --out "$out/s-first"
imitate --size s --init "$out/s-first" --epochs 5 --learning-rate 7e-4 --dropout 0.1 --unlabelled-share 1.0 --out "$out/s-final"
imitate --size xs --init "$out/ladder/runs/xs" --epochs 12 --learning-rate 1.5e-3 --dropout 0.05 --unlabelled-share 1.0 \
    --out "$out/xs-final"
imitate --size m --init students/l --epochs 3 --learning-rate 3e-4 --layer-decay 0.95 --batch-size 32 --dropout 0.1 --views 3 \
    --unlabelled-share 0.5 --out "$out/m-final"
for size in s xs m; do
    export_student --ckpt "$out/$size-final" --out "$out/students/$size" --notice "docs/notices/$size.md"
done
