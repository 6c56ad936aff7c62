# plot_style.gp: how the curves of plot.sh and compare_optimizers.sh look, for gnuplot's load.
set encoding utf8
set key top right spacing 1.3 samplen 3 noenhanced
set border 3 linecolor rgb "#505050"
set tics nomirror out textcolor rgb "#202020"
set grid linetype 1 linecolor rgb "#d8d8d8" linewidth 0.8
set rmargin 4
set format x "%.10g"
