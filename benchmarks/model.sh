#!/usr/bin/env bash
# The model of the package, from public files to its folder: data, training, operating point. Each part goes on where it
# was interrupted. Needs nnUNet_raw, nnUNet_preprocessed, nnUNet_results, and the files below in the folder SOURCES.
#
#   imalife.nii.gz                   airways; bronchipy, tests' data (under a licence like MIT's)
#   ATM_305.nii.gz, ATM_384.nii.gz   airways by the team deeptree_damo; ATM-22-Related-Work (MIT)
#   LUNGx-CT004.nii.gz               CT of the SPIE-AAPM Lung CT Challenge, The Cancer Imaging Archive (CC BY 3.0)
#   weight.pth                       the ATM'22 organisers' baseline; ATM-22-Related-Work (MIT)
#
# for part in data prepare train ship; do benchmarks/model.sh SOURCES $part; done
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
sources=$1
patient="$nnUNet_raw/segmented"
ct="--ct $patient/cts/LUNGx-CT004_0000.nii.gz $patient/LUNGx-CT004.nii.gz"
trainer=nnUNetTrainerATM22AirwayPaired
trained="$nnUNet_results/Dataset654_Box/${trainer}__nnUNetBoxPlans__3d_fullres"
validation="$nnUNet_raw/Dataset656_BoxValidation"

data() {
    # imalife is a map of shares, of which airway is what is above a half
    python -c "import SimpleITK as sitk, sys; sitk.WriteImage(sitk.ReadImage(sys.argv[1]) > 0.5, sys.argv[2])" \
        "$sources/imalife.nii.gz" "$nnUNet_raw/imalife.nii.gz"
    trees="$nnUNet_raw/imalife.nii.gz $sources/ATM_305.nii.gz $sources/ATM_384.nii.gz"
    nnUNetv2_airway_segment -i "$sources/LUNGx-CT004.nii.gz" -o "$patient" -m "$sources/weight.pth"
    python "$here/other_airways.py" -d 655 -name Other $ct --from-mask $trees -n 9
    phantoms="nnUNetv2_airway_phantom --vary 0.3 --lung-box 10 -n_test 0 --from-mask $trees"
    $phantoms -d 650 -name Fine -n 3 --noise 35 --spacing 0.8 0.8 0.8
    $phantoms -d 651 -name Thin -n 3 --noise 35 --spacing 1.25 0.7 0.7 --seed 1
    $phantoms -d 652 -name Thick -n 3 --noise 25 --spacing 2.5 0.7 0.7 --seed 2
    $phantoms -d 653 -name Thickest -n 3 --noise 20 --spacing 4 0.75 0.75 --seed 3
}

others() { # the data set's cases of these numbers, as options of study_data.py
    for number in "$@"; do
        name="$(printf %03d "$number")_LUNGx-CT004"
        echo "--ct $nnUNet_raw/Dataset655_Other/imagesTr/${name}_0000.nii.gz $nnUNet_raw/Dataset655_Other/labelsTr/$name.nii.gz"
    done
}

prepare() {
    study_data="python $here/study_data.py --keep-air"
    $study_data -d 654 -name Box --join 650 651 652 653 $ct $(others 0 1 2 3 4 5) --slices 2 3 5
    nnUNetv2_extract_fingerprint -d 654 -np 2
    nnUNetv2_plan_experiment -d 654 -overwrite_target_spacing 0.85 0.85 0.85 -overwrite_plans_name nnUNetBoxPlans
    # linear also across thick slices, where nnU-Net takes the nearest one
    python - "$nnUNet_preprocessed/Dataset654_Box/nnUNetBoxPlans.json" <<'END'
import json, sys
plans = json.load(open(sys.argv[1]))
for name, value in plans["configurations"]["3d_fullres"].items():
    if name.startswith("resampling_fn") and name.endswith("kwargs"):
        value |= {"order": 1, "force_separate_z": False}
json.dump(plans, open(sys.argv[1], "w"), indent=4)
END
    nnUNetv2_preprocess -d 654 -plans_name nnUNetBoxPlans -c 3d_fullres -np 2
    $study_data -d 656 -name BoxValidation $(others 6 7 8) --slices 3 --held-out
}

train() {
    nnUNetv2_airway_import -i "$sources/weight.pth" -o "$nnUNet_results/baseline"
    how="-pretrained_weights $nnUNet_results/baseline/fold_0/checkpoint_final.pth"
    [ -e "$trained/fold_all/checkpoint_latest.pth" ] && how=--c
    nnUNet_extTrainer="$here/model_trainers" \
        nnUNetv2_train 654 3d_fullres all -tr $trainer -p nnUNetBoxPlans -device cpu $how
}

ship() {
    model="$here/../nnunetv2_airway/model"
    python "$here/ship_model.py" -i "$trained/fold_all/checkpoint_final.pth" -o "$model"
    nnUNetv2_predict_from_modelfolder -i "$validation/imagesTs" -o "$nnUNet_results/validation" -m "$model" -f all \
        -device cpu --save_probabilities
    nnUNetv2_airway_tune -i "$nnUNet_results/validation" -ref "$validation/labelsTs" -o "$nnUNet_results/tuned" \
        --precision 95
    cp "$nnUNet_results/tuned/operating_point.json" "$model"
}

"$2"
